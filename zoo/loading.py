"""``load``: build a model from a folder of ``save``, a Hugging Face folder, a GGUF file or a ``.keras`` file.

The config.json that ``save`` writes is
``{"format": "attention_zoo", "version": 1, "family": …, "dtype": …, "config": {…}}``. Its tensors are named as by
``weight_name``, such as ``block_0/attention/query/kernel``, and have Keras' layout (in, out).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import keras

from .. import checks
from ..files import finish, read_json
from ..text.tokenizer import Tokenizer
from ..weights.fill import FirstValues, fill
from ..weights.rules import Dialect, Rule, weight_name
from ..weights.tensors import SafetensorsFiles, Tensors
from ..weights.transforms import SAME
from .adapters import Adapter, MergedTensors, is_adapter
from .base import ZooModel
from .building import build_model, check_sizes, warn_of_new_head
from .companions import DICTS
from .generation_config import read_generation_config, warn_of_generation_config
from .gguf_loading import load_gguf
from .hub import PICKLES, hub_name, located
from .keras_files import SUFFIX, load_keras
from .model_tokenizer import LONGEST, TOKENIZER_FILES, given_tokenizer, readable_tokenizer, sentence_options
from .registry import family, own_dialects
from .sentence_transformers import MODULES_FILE, SentenceFiles, SentenceTensors, read_sentence_files, transformer_folder
from .ties import untied

if TYPE_CHECKING:
    from . import typed

FORMAT, VERSION = "attention_zoo", 1
CONFIG_FILE, WEIGHTS_FILE, IMAGES_FILE = "config.json", "model.safetensors", "preprocessor_config.json"
GENERATION_FILE = "generation_config.json"
ACCEPTED = "accepted: a folder with config.json and model.safetensors, of attention_zoo.save or Hugging Face, a .gguf"
ACCEPTED += " or a .keras; or org/name of the Hugging Face hub"
UNUSED = "unused/"  # name prefix of the weights that no head uses


@overload
def load(
    path: str | os.PathLike[str],
    *,
    dtype: Any = None,
    tokenizer: Any = None,
    revision: str | None = None,
    base: str | os.PathLike[str] | None = None,
    **overrides: Unpack[typed.AnyFields],
) -> ZooModel: ...
@overload  # of ``**mapping``, as in ``create``
def load(
    path: str | os.PathLike[str],
    *,
    dtype: Any = None,
    tokenizer: Any = None,
    revision: str | None = None,
    base: str | os.PathLike[str] | None = None,
    _mapping: Any,
    **overrides: Any,
) -> ZooModel: ...
def load(
    path: str | os.PathLike[str],
    *,
    dtype: Any = None,
    tokenizer: Any = None,
    revision: str | None = None,
    base: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> ZooModel:
    """Load a model from a folder that ``save`` wrote, a Hugging Face folder, a GGUF file or a ``.keras`` file.

    A name such as "Qwen/Qwen3-0.6B", or "org/name:file.gguf", that is not a path is downloaded from the Hugging Face
    hub with ``huggingface_hub``, with its cache, token and offline mode. For a folder with a LoRA adapter of PEFT, the
    adapter is merged into its base model.

    The tokenizer, if there is one, becomes ``model.tokenizer``, a Hugging Face config ``model.huggingface``, and the
    content of preprocessor_config.json ``model.preprocessor``. A tokenizer that cannot be read is left out with a
    warning. A sentence-transformers folder is loaded with ``head="sentence_embedding"``, its pooling and the layers
    after it, and with its prompts in the tokenizer; a cross-encoder is loaded with its score function. Weights of a
    GGUF file are dequantized to `dtype`.

    Args:
        path: the folder, or the .gguf or .keras file, or a name of the hub. A model from a .keras file is not compiled.
            For a split GGUF file, any of its parts can be given.
        dtype: a Keras dtype policy. Default: the saved one for files of this package and ``.keras`` files; Keras'
            global dtype policy, which is "float32" unless it was changed, for third-party files.
        tokenizer: a ``Tokenizer``, or the path of one, that replaces the one at `path`.
        revision: branch, tag or commit of a model of the hub. Default: its main branch.
        base: the folder, or the name on the hub, of the model that an adapter belongs to. Default: the one that its
            adapter_config.json names.
        overrides: config fields that replace the saved ones, such as ``dropout=0.2`` or ``max_length=512``. With
            ``preprocessing=True``, a ViT preprocesses its images itself as preprocessor_config.json specifies. With a
            ``head`` that differs from that of the file, only the body is loaded; the new head keeps its initial values,
            and a warning lists its weights. Special token ids of a third-party file that lie outside its vocabulary are
            dropped, also with a warning.

    Returns:
        A built model of the family's class, such as ``GPT``.

    Raises:
        ValueError: the path does not exist or has an unknown format, the config asks for a feature that is not
            supported, or the weights do not fit the config: some are missing, unexpected or of another shape. Files
            that can contain pickles are never opened. Or the hub does not have the model, or does not answer.
        ModuleNotFoundError: the file is a GGUF file and the ``gguf`` package is not installed.
    """
    with _in_short():
        given = None if tokenizer is None else given_tokenizer(tokenizer)
        if checks.path_like("path", path).suffix in PICKLES:
            raise ValueError(f"path: got {path}, a format that can hold code and is never opened; {ACCEPTED}")
        path = located(path, revision)
        source = _Source(path, None) if base is None and not is_adapter(path) else _with_base(path, base)
        model = _load(source, dtype, overrides, given)
        model.tokenizer = model.tokenizer if given is None else given
        warn_of_generation_config(model, path)
        return model


@contextmanager
def _in_short() -> Iterator[None]:
    """Shorten error messages that quote much of a file: keep their beginning and end."""
    try:
        yield
    except ValueError as error:
        if len(text := str(error)) <= LONGEST and type(error) is ValueError:
            raise
        raise ValueError(text if len(text) <= LONGEST else f"{text[:500]} … {text[-300:]}") from error.__cause__


@dataclass
class _Source:
    """Where the parts of a model are: `path` with config and weights, and an adapter of them or None."""

    path: Path
    adapter: Adapter | None


def _with_base(path: Path, base: str | os.PathLike[str] | None) -> _Source:
    """Return the adapter in the folder `path` with its base model, which is `base` or the one that it names."""
    if not is_adapter(path):
        raise ValueError(f"base: got {base} for {path}, which is not an adapter of PEFT; accepted: None")
    adapter = Adapter(path)
    if base is not None:
        place = located(checks.path_like("base", base))
        if not (transformer_folder(place) / CONFIG_FILE).is_file():
            raise ValueError(f"base: got {base}; accepted: a Hugging Face folder, or org/name of the hub")
        return _Source(place, adapter)
    given = f"base: got None for the adapter {path}, whose base is {adapter.base!r}"
    if adapter.base is None:
        raise ValueError(f"{given}; accepted: the path of its base model, as load(…, base=…)")
    beside = path / adapter.base  # a path may be one from the adapter's folder
    try:
        here = beside if beside.is_dir() else Path(adapter.base)
        found = located(here, None if here.exists() or hub_name(here) is None else adapter.revision)
        if found.exists():
            return _Source(found, adapter)
        error: ValueError | None = None
    except ValueError as raised:
        error = raised
    why = "which is not there" if error is None else f"{error}"
    raise ValueError(f"{given}: {why}; accepted: a path or a name of the hub, as load(…, base=…)") from error


def _load(source: _Source, dtype: Any, overrides: dict[str, Any], tokenizer: Tokenizer | None) -> ZooModel:
    path, adapter = source.path, source.adapter
    if adapter is None and path.suffix == SUFFIX and not path.is_dir():
        model, fresh = load_keras(path, dtype, overrides)
        warn_of_new_head(fresh, path)
        return model
    if adapter is None and path.suffix == ".gguf":
        return load_gguf(path, dtype, overrides, tokenizer)
    if not path.exists():
        raise ValueError(f"path: got {path}, which does not exist; {ACCEPTED}")
    finish(path, CONFIG_FILE)
    folder = transformer_folder(path)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"path: got {folder}, without {CONFIG_FILE}; {ACCEPTED}")
    raw, sentences, places = read_json(folder / CONFIG_FILE), SentenceFiles(), [folder]
    if raw.get("format") == FORMAT and adapter is None:
        model = _load_own(folder, raw, dtype, overrides)
    elif "model_type" in raw:
        own = adapter is not None and (adapter.folder / MODULES_FILE).is_file()
        sentences = read_sentence_files(adapter.folder if adapter is not None and own else path)
        model = _load_huggingface(folder, raw, dtype, overrides, sentences, adapter)
        places = [folder] if adapter is None else [adapter.folder, folder]
    elif adapter is not None:
        raise ValueError(f"base: got {path}, which is not a Hugging Face folder; accepted: one")
    else:
        raise ValueError(f"path: {folder / CONFIG_FILE} has an unknown format; {ACCEPTED}")
    place = next((place for place in places if any((place / name).is_file() for name in TOKENIZER_FILES)), None)
    if tokenizer is None and place is not None:
        options = sentence_options(sentences, model)
        model.tokenizer = readable_tokenizer(place, lambda: Tokenizer.load(place, **options))
    if model.tokenizer is not None and "token_type_ids" not in {each.name for each in model.signature.inputs}:
        model.tokenizer.uses_token_types = False  # tokenizer.json alone does not distinguish DistilBERT from BERT
    return model


# Folders written by ``save``.


def _load_own(folder: Path, raw: dict[str, Any], dtype: Any, overrides: dict[str, Any]) -> ZooModel:
    if raw.get("version") != VERSION:
        raise ValueError(f"path: got format version {raw.get('version')!r}; accepted: {VERSION}")
    try:
        cls = family(raw["family"])
        config = cls.config_class.from_dict({**raw["config"], **overrides})
    except (KeyError, TypeError) as error:
        raise ValueError(f"path: {folder / CONFIG_FILE} lacks or mistypes a field: {error}") from error
    if dtype is None:
        try:
            dtype = keras.dtype_policies.get(raw.get("dtype"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"path: {folder / CONFIG_FILE}: {error}") from error
    tensors = SafetensorsFiles(folder)
    untied(raw, tensors.metadata, folder)
    check_sizes(config, tensors, folder / CONFIG_FILE)
    new_head = "head" in overrides and overrides["head"] != raw["config"].get("head")
    with FirstValues() as later:
        model = cls(config, dtype=dtype)
        names = [weight_name(v) for v in model.weights]
        rules = tuple(Rule(name, name, SAME) for name in names)
        old_head = tuple(f"^{part}(/|$)" for part in cls.head_parts) if new_head else ()
        ours = Dialect(fields=(), rules=rules, ignored=old_head, unused={f"^{UNUSED}": True})
        fresh = fill(model, ours, tensors, new_head=new_head, later=later)
    model.unused = {name.removeprefix(UNUSED): value for name, value in model.unused.items()}
    warn_of_new_head(fresh, folder)
    for name in DICTS:
        setattr(model, name, raw.get(name) or {})
    return model


# Hugging Face folders.


def model_types() -> dict[str, str]:
    """Return the family name for every Hugging Face ``model_type`` that can be loaded."""
    return {kind: name for kind, (name, _) in own_dialects("dialects").items() if kind != "gguf"}


def _load_huggingface(
    folder: Path,
    raw: dict[str, Any],
    dtype: Any,
    overrides: dict[str, Any],
    sentences: SentenceFiles,
    adapter: Adapter | None,
) -> ZooModel:
    kind, known = raw["model_type"], model_types()
    if not isinstance(kind, str) or kind not in known:
        got = repr(kind) if len(repr(kind)) <= 80 else f"{repr(kind)[:80]}…"
        raise ValueError(f"path: {folder / CONFIG_FILE} has model_type {got}; accepted: {sorted(known)}")
    if not any((folder / name).is_file() for name in (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json")):
        held = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        why = f"only {held}, which can hold code and are never opened" if held else f"without {WEIGHTS_FILE}"
        raise ValueError(f"path: got {folder} {why}; {ACCEPTED}")
    cls = family(known[kind])
    dialect = cls.dialects[kind]
    tensors: Tensors = (found := SafetensorsFiles(folder))
    raw = untied(raw, found.metadata, folder)
    if adapter is not None:
        overrides = {**_trained_head(adapter, dialect, raw, overrides), **overrides}
        head = sentences.fields.get("head") or (overrides["head"] if "head" in overrides else dialect.head(raw))
        tensors = MergedTensors(tensors, adapter, dialect, head)
        raw = tensors.rows(raw)
    if sentences.fields.get("head"):
        if "sentence_embedding" not in dialect.heads:
            dialects = own_dialects("dialects").items()
            accepted = sorted(name for name, (_, one) in dialects if "sentence_embedding" in one.heads)
            where = f"path: {folder / CONFIG_FILE}"
            raise ValueError(f"{where}: got model_type {kind!r} for sentence embeddings; accepted: {accepted}")
        tensors = SentenceTensors(tensors, dialect.prefix, sentences.dense)
    preprocessor = read_json(folder / IMAGES_FILE) if (folder / IMAGES_FILE).is_file() else {}
    if overrides.get("preprocessing") is True:
        if not preprocessor:
            raise ValueError(f"preprocessing: got True without a {IMAGES_FILE} in {folder}; accepted: a dict")
        overrides = {**overrides, "preprocessing": preprocessor}
    model = build_model(cls, dialect, raw, tensors, dtype, sentences.fields, overrides, folder / CONFIG_FILE)
    model.huggingface, model.preprocessor = raw, preprocessor
    model.sentences, model.sentence_options = sentences.sentences, sentences.options
    model.generation_config = read_generation_config(folder / GENERATION_FILE, raw)
    return model


def _trained_head(adapter: Adapter, dialect: Dialect, raw: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the config fields of the head that the adapter was trained with, if its base has another one."""
    head = overrides.get("head", adapter.head)
    count = adapter.classes(dialect)
    bodies = (None, "causal_lm", "masked_lm")
    if head is None and "head" not in overrides and count is not None and dialect.head(raw) in bodies:
        heads = [name for name in dialect.heads if name and name.endswith("classification")]
        if len(heads) != 1:
            what = f"the adapter {adapter.folder} of a trained classifier, without task_type"
            raise ValueError(f"head: got {what}; accepted: one of {heads}, as load(…, head=…)")
        head = heads[0]
    if head is None or (head or None) not in dialect.heads:
        return {}
    classes = {*dialect.heads.values(), *dialect.other_classes}
    known = (raw.get("architectures") or [None])[0] in {*classes, None}
    found: dict[str, Any] = {} if known and dialect.head(raw) == (head or None) else {"head": head or None}
    if head and head.endswith("classification") and count is not None:
        found["num_classes"] = count
    return found
