"""Models of the Hugging Face hub by name, such as "Qwen/Qwen3-0.6B", downloaded with ``huggingface_hub``.

The cache, the token, the endpoint and the offline mode are those of that library. Only the files that ``load`` reads
are downloaded, and never one that can hold a pickle.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import checks
from ..files import read_json
from ..needs import named_extras

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
GGUF = re.compile(rf"({NAME.pattern})[:/]([\w./+@ -]+\.gguf)")
ADDRESS = re.compile(rf"https?://(?:[^/]+/)?({NAME.pattern})?")
TAGGED = re.compile(rf"({NAME.pattern}):([\w.-]+)(?<!\.gguf)")  # as llama.cpp's -hf and Ollama take it
SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
INDEX, WEIGHTS, MODULES = "model.safetensors.index.json", "model.safetensors", "modules.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SMALL = (
    *("config.json", INDEX, "generation_config.json", "preprocessor_config.json", ADAPTER_CONFIG),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "source.spm", "target.spm"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
    *("sentence_bert_config.json", "sentence_*_config.json", "config_sentence_transformers.json", MODULES),
)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")  # suffixes of files that hold code
ACCEPTED = "accepted: a repository with config.json and model.safetensors, or a .gguf as org/name:file.gguf"


def hub_name(path: str | os.PathLike[str]) -> tuple[str, str | None] | None:
    """Return the repository and the .gguf file that `path` names, or None if it is not a name of the hub.

    "org/name" names a repository, and "org/name:file.gguf" or "org/name/file.gguf" a file in it.
    """
    text = Path(path).as_posix() if isinstance(path, os.PathLike) else path
    if ".." in text or "--" in text:  # the hub has no such names
        return None
    if found := GGUF.fullmatch(text):
        return found[1], found[2].removeprefix("/")
    if not NAME.fullmatch(text) or text.endswith((".keras", ".onnx", ".tflite", ".safetensors", ".litertlm")):
        return None
    return text, None


def located(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Return `path` if it exists or is not a name of the hub, and otherwise where the files of the hub are cached.

    Args:
        path: a path, or a name as in ``hub_name``.
        revision: branch, tag or commit of the repository. Default: its main branch.

    Raises:
        ValueError: the hub does not have the repository, the revision or the file, does not allow access to it or does
            not answer while nothing is cached, or the repository has no model.safetensors; or a `revision` of a file
            that is not on the hub.
    """
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise ValueError(f"revision: got {revision!r}; accepted: a branch, a tag or a commit")
    if found := ADDRESS.match(str(path)):
        raise ValueError(
            f"path: got the address {path}; accepted: the name {found[1] or 'org/name'!r} alone, or a path"
        )
    if (found := TAGGED.fullmatch(str(path))) and not Path(path).exists():
        name, tag = found.groups()
        raise ValueError(f"path: got {path}; accepted: a file of the repository, as {name}:<name>-{tag}.gguf")
    named = None if Path(path).exists() else hub_name(path)
    if named is None:
        if revision is not None:
            raise ValueError(f"revision: got {revision!r} for {path}, which is not of the hub; accepted: None")
        return Path(path)
    name, file = named
    with _in_one_line(str(path), revision):
        repository = _Repository(name, revision)
        return repository.model() if file is None else repository.gguf(file)


class _Repository:
    """The files of one repository in the cache of ``huggingface_hub``."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision = name, revision

    def model(self) -> Path:
        """Return the folder with the files of a model or an adapter."""
        folder = self.fetched(SMALL, silent=True)
        if (folder / ADAPTER_CONFIG).is_file():
            self.complete(folder, [ADAPTER_WEIGHTS])
            return folder
        modules = read_json(folder / MODULES, list) if (folder / MODULES).is_file() else []
        places = [module.get("path") for module in modules if isinstance(module, Mapping)]
        inside = [place for place in places if isinstance(place, str) and re.fullmatch(r"[\w-]+", place)]
        if inside:
            names = [f"{place}/{name}" for place in inside for name in ("config.json", WEIGHTS)]
            first = [f"{inside[0]}/{name}" for name in SMALL] if "" not in places else []
            self.fetched([*names, *first], silent=True)
        body = folder if "" in places or not inside else folder / inside[0]
        if (body / "config.json").is_file() or (folder / "config.json").is_file():
            self.complete(folder, [self._inside(folder, body, name) for name in _shards(body)])
            return folder
        held = self.listed()
        if files := [name for name in held if name.endswith(".gguf")]:
            raise ValueError(f"path: got {self.name}, which has GGUF files; accepted: {self.name}:{files[0]}, …")
        raise ValueError(f"path: got {self.name}, a repository without config.json; {ACCEPTED}")

    def gguf(self, file: str) -> Path:
        """Return the path of a .gguf file, with all parts beside it if it is one of several."""
        count = SPLIT.search(file)
        names = [file]
        if count:
            start = file[: count.start()]
            names = [f"{start}-{i + 1:05d}-of-{count[1]}.gguf" for i in range(min(int(count[1]), 10_000))]
        folder = self.fetched(names, silent=False)
        if not (folder / file).is_file():
            held = [name for name in self.listed() if name.endswith(".gguf")]
            raise ValueError(f"path: got {self.name}:{file}, which is not in the repository; accepted: one of {held}")
        return folder / file

    def complete(self, folder: Path, names: Collection[str]) -> None:
        """Download the weight files in `names` that are missing from `folder`, the cached snapshot.

        Raises:
            ValueError: the repository lacks one of them.
        """
        if not all((folder / name).is_file() for name in names):
            folder = self.fetched(names, silent=False)
        for name in names:
            if not (folder / name).is_file():
                held = sorted(each for each in self.listed() if each.endswith(PICKLES))
                why = f"only {held[:8]}, which can hold code and are never opened" if held else f"without {name}"
                raise ValueError(f"path: got {self.name}, a repository {why}; {ACCEPTED}")

    def fetched(self, names: Collection[str], *, silent: bool) -> Path:
        """Download the files in `names` that the repository has, and return the folder of the snapshot.

        Without a connection, it is the cached snapshot, with a warning if files are known to be missing.
        """
        with named_extras():
            from huggingface_hub import snapshot_download
            from huggingface_hub.utils import tqdm

        class Silent(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})

        try:
            options: dict[str, Any] = {"tqdm_class": Silent} if silent else {}
            found = snapshot_download(self.name, revision=self.revision, allow_patterns=[*names], **options)
        except FileNotFoundError as error:  # no connection; versions from 2 on say if the snapshot is incomplete
            if (found := getattr(error, "snapshot_path", None)) is None:
                raise
            missing = [name for name in names if "*" not in name and not (Path(found) / name).is_file()]
            if any(name in missing for name in ("config.json", *(n for n in names if n not in SMALL))):
                raise
            checks.warn(f"{self.name}: the hub does not answer, and the cache may lack some of {missing}")
        folder = Path(found)
        self.revision = folder.name  # the commit, so that all files are of the same one
        return folder

    def listed(self) -> list[str]:
        """Return the names of all files of the repository, or of those in the cache."""
        try:
            from huggingface_hub import HfApi

            return sorted(HfApi().list_repo_files(self.name, revision=self.revision))
        except Exception:  # it is only for a message
            return []

    @staticmethod
    def _inside(folder: Path, body: Path, name: str) -> str:
        return name if body == folder else f"{body.name}/{name}"


def _shards(folder: Path) -> list[str]:
    """Return the names of the files of weights: those in the index, if there is one."""
    if not (folder / INDEX).is_file():
        return [WEIGHTS]
    listed = read_json(folder / INDEX).get("weight_map")
    names = set(listed.values()) if isinstance(listed, dict) else set()
    if not names or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
        raise ValueError(f"path: {folder / INDEX} has no weight_map from tensors to files; accepted: an index as saved")
    return sorted(names)


@contextmanager
def _in_one_line(name: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of ``huggingface_hub`` into a ValueError of one line."""
    try:
        yield
    except (ValueError, ModuleNotFoundError) as error:
        if type(error) in (ValueError, ModuleNotFoundError):
            raise
        raise ValueError(f"path: got {name}: {_first_line(error)}; {ACCEPTED}") from error
    except Exception as error:
        kinds = {cls.__name__ for cls in type(error).__mro__}
        local = "accepted: a path that exists, or org/name of the hub"
        if "GatedRepoError" in kinds:
            why = "access requires accepting its conditions on the hub; accepted: a token of an account that has"
            why += " (hf auth login)"
        elif "RepositoryNotFoundError" in kinds:
            why = f"neither a path nor a repository that the hub shows to this account; {local}"
        elif "RevisionNotFoundError" in kinds:
            why = f"the hub has no revision {revision!r} of it; accepted: a branch, a tag or a commit"
        elif "LocalEntryNotFoundError" in kinds:
            cause = _cause(error)
            verb = "does not give it" if cause.startswith(("HfHubHTTPError", "HTTPStatusError")) else "does not answer"
            why = f"not a path, not in the cache, and the hub {verb} ({cause}); {local}"
        elif isinstance(error, OSError) or type(error).__module__.partition(".")[0].startswith(("http", "hugging")):
            why = f"the hub does not give it ({_cause(error)}); {local}"
        else:
            raise
        raise ValueError(f"path: got {name}: {why}") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _cause(error: BaseException) -> str:
    under = error.__cause__ or error
    text = f"{type(under).__name__}: {_first_line(under)}"
    return text if len(text) <= 200 else f"{text[:200]}…"
