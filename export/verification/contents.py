"""Checks of a file's contents other than its computation: digests, weights, config and tokenizer.

The metadata of every file holds a digest of the file's bytes, computed with zeros in place of the digest. It reveals
any damage or change after the export, and a decoder recognizes its own encoder by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...runtime.metadata import CONFIG, DIGEST, FAMILY, GENERATION, STOP_TOKENS, TOKENIZER_FILES, stated
from ...runtime.runner import Runner
from ..digests import WEIGHTS, file_digest, weight_digests
from ..frontend.diagnostics import one_line
from ..frontend.inference import FileWeights
from ..frontend.spec import Exportable, texts
from .comparison import Check
from .stored import fault
from .twin import Twin, integers_of

SHOWN = 4  # findings listed in a message


def content_checks(model: Exportable, runner: Runner) -> list[Check]:
    """Check the digest, config and tokenizer of a file."""
    metadata = runner.metadata
    return [_bytes(runner), _config(model, metadata), *_texts(model, metadata)]


def weight_checks(weights: FileWeights, runner: Runner, twin: Twin) -> list[Check]:
    """Check the weights of a file by the digests that the export stored, and the numbers in it one by one.

    Args:
        weights: those of the model.
        runner: of the file.
        twin: what the file stores.
    """
    ours = weight_digests(weights)
    try:
        theirs = stated(runner.path, runner.metadata, WEIGHTS, dict) if WEIGHTS in runner.metadata else ours
    except ValueError as error:
        return [Check("weights", False, None, one_line(error))]
    wrong = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    faults = [f"{', '.join(sorted(wrong)[:SHOWN])}: other digests"] if wrong else []
    try:
        chosen = integers_of(runner)
    except ValueError as error:
        return [Check("weights", False, None, one_line(error))]
    for one in twin.stored:
        said = fault(one, feedback=one.name in chosen)
        if said is None and one.name in chosen and one.digest != chosen[one.name]:
            said = f"{one.name} has other integers than GPTQ chose"
        if said is not None:
            faults.append(said)
            wrong.add(one.name)
    rounded = f", {len(twin.rounded)} of them rounded" if twin.rounded else ""
    detail = f"{len(ours)} match the model, {len(twin.stored)} compared as they are stored{rounded}"
    if "digests" not in "".join(faults[:1]) and WEIGHTS not in runner.metadata:
        detail = f"no weight digests in the file, {len(twin.stored)} compared as they are stored{rounded}"
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        detail = f"{len(wrong)} differ from the model: {'; '.join(faults[:SHOWN])}{more}"
    return [Check("weights", not faults, None, detail)]


def precision_check(runner: Runner, twin: Twin, asked: str | None) -> Check:
    """Check that a file has the precision that it says it has, and that is asked for.

    A file in float32 must not be judged by the wider limits of another precision.
    """
    kinds = {"fp16" if one.scales is None else "int4" if one.bits == 4 else "int8" for one in twin.rounded}
    said, found = runner.precision, ", ".join(sorted(kinds)) or "fp32"
    detail = f"{said}, with weights in {found}"
    if asked is not None and said != asked:
        return Check("precision", False, None, f"{detail}; asked for {asked}")
    narrow = {"fp32": not kinds, "fp16": not kinds - {"fp16"}}.get(said, True)
    needed = kinds if said == "fp16" else kinds - {"fp16"}
    wide = said == "fp32" or bool(needed or twin.reason) or all(one.values.shape[-1] < 2 for one in twin.stored)
    return Check("precision", narrow and wide, None, detail)


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
