"""What is fuzzed: for each kind of file its seeds, how one is changed, and what is then done with it."""

from __future__ import annotations

import functools
import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from mutations import changed_bytes, changed_json, changed_value, dumped

TEMPLATES = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m.content | trim + '</s>' }}{% endfor %}",
    "{% for i in range(9) %}{% set x = 'a' * 9 %}{{ x ~ x }}{{ '%9d' % i }}{{ 'a' | center(9) }}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ messages | tojson }}{% endif %}{% endmacro %}{{ m(3) }}{{ 2 ** 9 }}",
)
MESSAGES = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]


def of_runner(path: Path) -> None:
    """Load an exported file, run its graphs on zeros, and continue a prompt."""
    from attention_zoo.runtime.loading import load

    runner = load(path, threads=1)
    assert repr(runner)
    for graph in runner.graphs.values():
        sizes = graph.signature.sizes
        feeds = {}
        for spec in graph.signature.inputs:
            shape = [dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.dims]
            if np.prod(shape, dtype="float64") > 1e6:  # the caller's own input would be large
                return
            feeds[spec.name] = np.zeros(shape, spec.dtype)
        graph.run(feeds)
    if runner.generates:
        runner.generate([[1, 2, 3]], max_new_tokens=3)
    assert runner.stop_tokens is not None


def of_bundle(path: Path) -> None:
    from attention_zoo.runtime.description import describe

    assert describe(path)["format"] == "litertlm"


def of_checkpoint(path: Path) -> None:
    import attention_zoo as az

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az.load(path)


def of_tokenizer(path: Path) -> None:
    from attention_zoo.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode("Hello, world! \n été").ids
    tokenizer.decode(ids)
    tokenizer("a b", "c", max_length=16)
    tokenizer.decode([0, 1, 2])
    tokenizer.to_files()


def of_template(path: Path) -> None:
    from attention_zoo.text.chat import chat_text

    chat_text(path.read_bytes().decode(errors="replace"), MESSAGES, {"bos_token": "<s>"}, {})


@functools.cache
def tables(seed: Path) -> list[int]:
    """Return the positions in a TFLite file that are not weights."""
    from ai_edge_litert import schema_py_generated as schema

    content = np.fromfile(seed, "uint8")
    model, mask = schema.Model.GetRootAsModel(content, 0), np.ones(len(content), bool)
    begin = content.__array_interface__["data"][0]
    for index in range(model.BuffersLength()):
        data: Any = model.Buffers(index).DataAsNumpy()
        if not isinstance(data, int) and len(data) > 64:
            place = data.__array_interface__["data"][0] - begin
            mask[place : place + len(data)] = False
    return np.flatnonzero(mask).tolist()


def bytes_of(seed: Path, work: Path, chance: random.Random) -> Path:
    places = tables(seed) if seed.suffix == ".tflite" else None
    if seed.suffix in (".gguf", ".onnx", ".litertlm") and chance.random() < 0.5:
        places = list(range(min(6000, seed.stat().st_size)))  # the header
    file = work / f"m{seed.suffix}"
    file.write_bytes(changed_bytes(seed.read_bytes(), chance, places))
    return file


def metadata_of(seed: Path, work: Path, chance: random.Random) -> Path:
    """Change an entry of the metadata of a file, which stays a whole file otherwise."""
    from planted.files import rewrite

    file = Path(shutil.copy(seed, work / f"m{seed.suffix}"))

    def change(entries: Any) -> None:
        name = chance.choice(sorted(entries))
        try:
            entries[name] = changed_json(entries[name], chance)
        except ValueError:  # not JSON
            entries[name] = str(chance.choice(("", "x", "[]", "{}", "null", "-1")))

    rewrite(file, change)
    return file


def folder_of(seed: Path, work: Path, chance: random.Random) -> Path:
    """Change one file of a folder."""
    folder = work / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seed, folder)
    file = chance.choice([f for f in sorted(folder.iterdir()) if f.suffix in (".json", ".safetensors")])
    if file.suffix == ".json":
        file.write_text(changed_json(file.read_text(), chance))
    else:
        file.write_bytes(changed_bytes(file.read_bytes(), chance, range(min(9000, file.stat().st_size))))
    return folder


def text_of(seed: Path, work: Path, chance: random.Random) -> Path:
    file = work / "template.jinja"
    file.write_bytes(changed_bytes(chance.choice(TEMPLATES).encode(), chance))
    return file


def tokenizer_of(seed: Path, work: Path, chance: random.Random) -> Path:
    folder = work / "tokenizer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (seed / name).is_file():
            shutil.copy(seed / name, folder / name)
    file = chance.choice(sorted(folder.iterdir()))
    raw = json.loads(file.read_text())
    if file.name == "tokenizer.json" and chance.random() < 0.7:  # the steps rather than the vocabulary
        key = chance.choice(sorted(raw))
        raw[key] = changed_value(raw[key], chance)
        file.write_text(dumped(raw))
    else:
        file.write_text(changed_json(json.dumps(raw), chance))
    return folder


# By kind: how a seed is changed, what is done with it, and its share of the tries.
READERS = {
    "tflite": (bytes_of, of_runner, 4),
    "onnx": (bytes_of, of_runner, 2),
    "metadata": (metadata_of, of_runner, 1),
    "litertlm": (bytes_of, of_bundle, 1),
    "tokenizer": (tokenizer_of, of_tokenizer, 3),
    "template": (text_of, of_template, 3),
    "gguf": (bytes_of, of_checkpoint, 1),
    "folder": (folder_of, of_checkpoint, 1),
}
