"""The files that a tokenizer is read from and written to: a Hugging Face folder, or a GGUF file.

Files are read as data only; nothing is unpickled or executed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import LARGEST_JSON, read_text, written_files
from ..weights.gguf_file import GGUFFile
from .gguf_vocabularies import gguf_tokenizer
from .sentencepiece_vocabularies import sentencepiece_tokenizer
from .tokenizer_config import known_options, set_bert_options
from .vocabularies import (
    FILE,
    LARGEST,
    add_named_tokens,
    add_tokens,
    backend_class,
    checked,
    json_of,
    kind_of,
    vocabulary_tokenizer,
)

CONFIG_FILE, SPECIAL_FILE = "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE_FILE, TEMPLATES_FOLDER = "chat_template.jinja", "additional_chat_templates"
MODEL_FILE = "config.json"
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "source.spm", "sentencepiece.bpe.model")
WITH_VOCABULARY = ("marian", "m2m100", "m2m_100")  # the ids of these are those of a vocab.json


def read_tokenizer(path: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend and the config of the tokenizer at `path`; see ``Tokenizer.load``.

    Args:
        config: values that replace those of the files.
    """
    if path.suffix == ".gguf" and path.is_file():
        backend, found = gguf_tokenizer(GGUFFile(path).fields)
        return backend, {**found, **config}
    folder = path if path.is_dir() else path.parent
    file = folder / FILE if path.is_dir() else path
    found = {}
    if path.is_dir() or path.name == FILE:  # the folder of a file with another name may belong to something else
        found = {**json_of(folder / SPECIAL_FILE, LARGEST_JSON), **json_of(folder / CONFIG_FILE, LARGEST_JSON)}
        named = [folder / TEMPLATE_FILE, *sorted((folder / TEMPLATES_FOLDER).glob("*.jinja"))]
        templates = {file.name: read_text(file, most=LARGEST_JSON) for file in named if file.is_file()}
        found |= _templates(templates)
    merged = {**found, **config}
    if file.is_file():
        text = read_text(file, most=LARGEST)
        backend = checked(f"path: {file}", lambda: backend_class().from_str(text))
        model = json_of(folder / MODEL_FILE, LARGEST_JSON) if found else {}
        set_bert_options(backend, merged, kind_of(merged, model.get("model_type")))
    else:
        backend, defaults = _other_vocabulary(path, folder, merged)
        merged = {**defaults, **merged}
    add_tokens(backend, merged, folder)
    add_named_tokens(backend, merged)
    return backend, known_options(merged)


def _other_vocabulary(path: Path, folder: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend and the default config of a folder without tokenizer.json."""
    kind = kind_of(config, json_of(folder / MODEL_FILE, LARGEST_JSON).get("model_type"))
    model = next((folder / name for name in SENTENCEPIECE_FILES if (folder / name).is_file()), None)
    if not path.is_dir() or model is None or (kind not in WITH_VOCABULARY and (folder / "vocab.json").is_file()):
        return vocabulary_tokenizer(path, folder, config)
    return sentencepiece_tokenizer(model, kind, config)


def _templates(files: Mapping[str, str]) -> dict[str, Any]:
    """Return the config entry for the chat templates of `files`, by file name, or {} if there is none.

    As in transformers, they replace all templates of tokenizer_config.json.
    """
    named = [
        ("default" if name == TEMPLATE_FILE else name.removesuffix(".jinja"), text) for name, text in files.items()
    ]
    return {"chat_template": [{"name": name, "template": text} for name, text in named]} if named else {}


def parse_tokenizer(files: Mapping[str, str], config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend and the config of the tokenizer whose files have the texts `files`, by file name.

    Args:
        config: values that replace those of the files.
    """
    merged: dict[str, Any] = {}
    for name in (SPECIAL_FILE, CONFIG_FILE):
        values = checked(name, functools.partial(json.loads, files.get(name, "{}")))
        if not isinstance(values, dict):
            raise ValueError(f"{name}: got a {type(values).__name__}; accepted: a JSON object")
        merged |= values
    inside = {name.removeprefix(f"{TEMPLATES_FOLDER}/"): text for name, text in files.items()}
    merged |= _templates({name: text for name, text in inside.items() if name.endswith(".jinja")})
    if FILE not in files:
        raise ValueError(f"files: got {sorted(files)}; accepted: {FILE}, and the files that belong to it")
    backend = checked(FILE, lambda: backend_class().from_str(files[FILE]))
    merged |= config
    set_bert_options(backend, merged, kind_of(merged, None))
    add_tokens(backend, merged, None)
    add_named_tokens(backend, merged)
    return backend, known_options(merged)


def file_texts(tokenizer: Any, *, indent: bool) -> dict[str, str]:
    """Return the text of each file of a ``Tokenizer`` by file name; see ``Tokenizer.to_files``."""
    special, templates = tokenizer.special_tokens, tokenizer.chat_templates
    names = ["input_ids", *["token_type_ids"] * tokenizer.uses_token_types, "attention_mask"]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        **({} if tokenizer.model_max_length is None else {"model_max_length": tokenizer.model_max_length}),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "model_input_names": names,
        "clean_up_tokenization_spaces": False,
        **tokenizer._language_config(),
    }
    if tokenizer.prompts:
        config |= {"prompts": tokenizer.prompts, "default_prompt_name": tokenizer.default_prompt_name}
    if not tokenizer.include_prompt:
        config["include_prompt"] = False
    several = set(templates) - {"default"}
    if several:
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    files = {
        FILE: tokenizer.backend.to_str(pretty=indent),
        CONFIG_FILE: json.dumps(config, indent=2 if indent else None, ensure_ascii=False) + "\n",
        SPECIAL_FILE: json.dumps(special, indent=2 if indent else None, ensure_ascii=False) + "\n",
    }
    if templates and not several:
        files[TEMPLATE_FILE] = templates["default"]
    return files


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Write the texts of ``file_texts`` to `folder`, and remove another tokenizer's chat templates from there."""
    with written_files(folder, FILE, template_files(folder)) as new:
        for name, text in files.items():
            (new / name).write_bytes(text.encode())


def template_files(folder: Path) -> list[str]:
    """Return the names of the files of chat templates in `folder`; they take precedence over the other files there."""
    found = [folder / TEMPLATE_FILE, *(folder / TEMPLATES_FOLDER).glob("*.jinja")]
    return [file.relative_to(folder).as_posix() for file in found if file.is_file()]
