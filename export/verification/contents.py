"""Checks of a file's contents other than its computation: digests, weights, config and tokenizer.

The metadata of every file holds a digest of the file's bytes, computed with zeros in place of the digest. It reveals
any damage or change after the export, and a decoder recognizes its own encoder by it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import numpy as np

from ...runtime.metadata import CONFIG, DIGEST, FAMILY, GENERATION, STOP_TOKENS, TOKENIZER_FILES, stated
from ...runtime.runner import Runner
from ..digests import WEIGHTS, file_digest, weight_digests
from ..folding import moved
from ..frontend.diagnostics import one_line
from ..frontend.inference import FileWeights
from ..frontend.spec import Exportable, texts
from ..precision.half import rounded
from .comparison import Check

SHOWN = 4  # names listed in a message


def content_checks(model: Exportable, runner: Runner) -> list[Check]:
    """Check the digest, config, tokenizer and weights of a file."""
    metadata = runner.metadata
    return [_bytes(runner), _config(model, metadata), *_texts(model, metadata), _weights(model, runner)]


def _bytes(runner: Runner) -> Check:
    bad, known = [], 0
    for file, metadata in runner.files.items():
        digest, data = metadata.get(DIGEST), file.with_name(f"{file.name}.data")
        if digest is not None:
            known += 1
            actual = file_digest(file, data if data.is_file() else None, digest)
            bad += [file.name] if f"sha256:{actual}" != digest else []
    if bad:
        return Check("bytes", False, None, f"{', '.join(bad)} changed after the export")
    detail = f"{known} of {len(runner.files)} files match their digests" if known else "no digest in the file"
    return Check("bytes", True, None, detail)


def _config(model: Exportable, metadata: Mapping[str, str]) -> Check:
    ours = json.loads(json.dumps(model.config.to_dict()))
    if metadata.get(FAMILY) != model.family:
        return Check("config", False, None, f"family {metadata.get(FAMILY)}, expected {model.family}")
    try:
        theirs = json.loads(metadata.get(CONFIG, "null"))
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict):
        return Check("config", False, None, f"{CONFIG} in the metadata cannot be read, or is missing")
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    shown = ", ".join(f"{name} is {theirs.get(name)!r}, expected {ours.get(name)!r}" for name in names[:SHOWN])
    return Check("config", not names, None, shown or "matches the model")


def _texts(model: Exportable, metadata: Mapping[str, str]) -> list[Check]:
    """Check the tokenizer and the end tokens, if both the file and the model have some."""
    ours = texts(model)
    kept = {*TOKENIZER_FILES.values(), STOP_TOKENS, GENERATION}
    theirs = {name: value for name, value in metadata.items() if name in kept}
    if not ours or not theirs:
        return []
    wrong = sorted(name.partition(".")[2] for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return [Check("tokenizer", not wrong, None, f"differs in: {', '.join(wrong)}" if wrong else "matches the model")]


def _weights(model: Exportable, runner: Runner) -> Check:
    """Check the weights by the digests that the export stored and, in a format that keeps names, bit by bit."""
    weights = FileWeights(model)
    ours = weight_digests(weights)
    if WEIGHTS not in runner.metadata:
        return Check("weights", True, None, "no weight digests in the file")
    try:
        theirs = stated(runner.path, runner.metadata, WEIGHTS, dict)
        stored = _stored(runner, {name: weights.value(name) for name in weights.variables})
    except ValueError as error:
        return Check("weights", False, None, one_line(error))
    wrong = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    for name, array, value in stored:
        expected = rounded(value) if array.dtype == "float16" else value
        wrong |= {name} if not np.array_equal(array, expected) else set()
    if wrong:
        names = ", ".join(sorted(wrong)[:SHOWN])
        return Check("weights", False, None, f"{len(wrong)} of {len(ours)} differ from the model: {names}")
    return Check(
        "weights",
        True,
        None,
        f"{len(ours)} match the model" + (f", {len(stored)} of them bit by bit" if stored else ""),
    )


def _stored(runner: Runner, weights: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the initializers of ONNX files that are made of weights alone: the name, the values in the file, and those
    that the weights of the model give. Other formats do not keep names.

    Raises:
        ValueError: the metadata that says how the initializers are made cannot be read.
    """
    import onnx_ir as ir

    found = []
    for file, metadata in runner.files.items() if runner.format == "onnx" else ():
        values = {**weights, **moved(metadata, weights)}
        for name, initializer in ir.load(os.fspath(file)).graph.initializers.items():
            if initializer.const_value is not None and name in values:
                found.append((name, initializer.const_value.numpy(), values[name]))
    return found
