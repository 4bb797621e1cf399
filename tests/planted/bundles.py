"""Faults of folders for ONNX Runtime GenAI and of LiteRT-LM bundles, other than those of the file inside."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models

from attention_zoo import export
from attention_zoo.export.bundles.litertlm import bundle
from attention_zoo.runtime.litertlm.runner import section
from attention_zoo.text.tokenizer import Tokenizer

from .fault import Fault, tokenizer

# ---- folders ---------------------------------------------------------------------------------------------------------


def settings(part: str, **values: Any) -> Callable[[Path], None]:
    """Change entries of genai_config.json: of a part such as "model.decoder"."""

    def changed(folder: Path) -> None:
        file = folder / "genai_config.json"
        found = inner = json.loads(file.read_text())
        for name in part.split("."):
            inner = inner[name]
        assert any(inner.get(name) != value for name, value in values.items())
        inner.update(values)
        file.write_text(json.dumps(found))

    return changed


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Change the first occurrence of a text in a file of a folder."""

    def changed(folder: Path) -> None:
        found = (folder / name).read_text(encoding="utf-8")
        assert old in found
        (folder / name).write_text(found.replace(old, new, 1), encoding="utf-8")

    return changed


# ---- bundles ---------------------------------------------------------------------------------------------------------


@dataclass
class Contents:
    """What a bundle is made of.

    Attributes:
        file: the TFLite file.
        message: the metadata for the engine.
        tokenizer: the tokenizer.
    """

    file: Path
    message: Any
    tokenizer: Tokenizer


def rewrite_bundle(path: Path, change: Callable[[Contents], Any]) -> None:
    """Write a bundle again, with changed contents."""
    place, message = section(path, "TFLiteModel"), export.load(path).said  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as room:
        file = Path(room) / "m.tflite"
        file.write_bytes(path.read_bytes()[place.begin : place.end])
        change(contents := Contents(file, message, tokenizer()))
        bundle(contents.file, contents.tokenizer, contents.message, made := Path(room) / "m.litertlm", {})
        shutil.move(made, path)


def template(contents: Contents) -> None:
    message = contents.message
    message.jinja_prompt_template = message.jinja_prompt_template.replace("assistant", "model")


def no_template(contents: Contents) -> None:
    contents.message.jinja_prompt_template = ""


def end(contents: Contents) -> None:
    contents.message.stop_tokens[0].token_ids.ids[0] = 3


def start(contents: Contents) -> None:
    contents.message.start_token.token_ids.ids.append(1)


def prefix(contents: Contents) -> None:
    contents.message.prompt_templates.user.prefix = "<|model|>user\n"


def suffix(contents: Contents) -> None:
    contents.message.prompt_templates.model.suffix = "<|user|>"


def tokens(contents: Contents) -> None:
    contents.message.max_num_tokens = 9


def sampling(contents: Contents) -> None:
    contents.message.sampler_params.k = 40


def suppressed(contents: Contents) -> None:
    contents.message.suppress_tokens.ids.append(9)


def vocabulary(contents: Contents) -> None:
    contents.tokenizer = Tokenizer(Backend(models.WordLevel({f"w{i}": i for i in range(100)}, unk_token="w0")))


GENAI, LITERTLM = ("genai",), ("litertlm",)
FOLDERS: dict[str, Fault] = {
    "GenAI: another template": Fault(folder=text("chat_template.jinja", "assistant", "model")),
    "GenAI: no template": Fault(folder=lambda folder: (folder / "chat_template.jinja").unlink()),
    "GenAI: another end token": Fault(folder=settings("model", eos_token_id=5)),
    "GenAI: another start token": Fault(folder=text("tokenizer_config.json", "<s>", "</s>")),
    "GenAI: another vocabulary": Fault(folder=text("tokenizer.json", '"A": 36', '"A": 37')),
    "GenAI: another context length": Fault(folder=settings("model", context_length=64)),
    "GenAI: another maximum length": Fault(folder=settings("search", max_length=59)),
    "GenAI: sampling": Fault(folder=settings("search", do_sample=True)),
    "GenAI: the cache in two buffers": Fault(folder=settings("search", past_present_share_buffer=False)),
    "GenAI: another number of heads": Fault(folder=settings("model.decoder", head_size=8)),
    "GenAI: other names of the caches": Fault(
        folder=settings("model.decoder.inputs", past_key_names="past_key_values.%d.value")
    ),
    "GenAI: settings that are no JSON": Fault(folder=lambda folder: (folder / "genai_config.json").write_text("[")),
}
BUNDLES: dict[str, Fault] = {
    "LiteRT-LM: another template": Fault(bundle=template),
    "LiteRT-LM: no template": Fault(bundle=no_template),
    "LiteRT-LM: another end token": Fault(bundle=end),
    "LiteRT-LM: a start token": Fault(bundle=start),
    "LiteRT-LM: another prompt prefix": Fault(bundle=prefix),
    "LiteRT-LM: another suffix of answers": Fault(bundle=suffix),
    "LiteRT-LM: fewer tokens": Fault(bundle=tokens),
    "LiteRT-LM: sampling": Fault(bundle=sampling),
    "LiteRT-LM: a token that is never chosen": Fault(bundle=suppressed),
    "LiteRT-LM: another vocabulary": Fault(bundle=vocabulary),
}
