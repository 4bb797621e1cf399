"""Measure every model type but mt5 against its reference checkpoint, and write the table of docs/models.md.

    python tests/zoo/parity.py --results parity.json [names…]    # measures what the file does not have yet
    python tests/zoo/parity.py --results parity.json --write     # writes the table from the file

Each type is measured with the checkpoint in tests/goldens that has its name, or else with the first one of it: the
greatest difference from transformers' numbers in Keras (over all checkpoints of the type), in an ONNX and in a TFLite
file; the cosine of int8 files with float32; whether ``generate`` continues with the same tokens, in Keras and from an
ONNX file with a key/value cache; whether the bundles for ONNX Runtime GenAI and LiteRT-LM can be written; and whether
the folder of ``to_huggingface`` has the same tensors. What is refused is given with the reason. There is no checkpoint
of mt5, as the page says above the table: test_dialects.py loads that of t5 as one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from test_checkpoints import DIALECTS, GOLDENS, cases, difference, inputs_of, loaded, tensors_of

import attention_zoo as az
from attention_zoo import export
from attention_zoo.text.tokenizer import Tokenizer
from attention_zoo.zoo.loading import model_types
from helpers import ROOT, run

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table of model types: begin -->\n", "<!-- table of model types: end -->\n"
COLUMNS = ("Keras", "ONNX", "TFLite", "ONNX int8", "TFLite int8", "generate", "GenAI", "LiteRT-LM", "round trip")
Measure = Callable[[str, Any, Path], str]


def of_type() -> dict[str, list[str]]:
    """Return the names of the checkpoints of each model type, that with the type's name first."""
    found: dict[str, list[str]] = {}
    for name in DIALECTS:
        kind = json.loads((GOLDENS / name / "config.json").read_text())["model_type"]
        found.setdefault(kind, []).append(name)
    return {kind: sorted(names, key=lambda n: n.replace("-", "_") != kind) for kind, names in sorted(found.items())}


def first_case(name: str) -> dict[str, np.ndarray]:
    return next(arrays for case, arrays in cases(name).items() if case != "generate")


def keras(name: str, model: Any, _: Path) -> str:
    worst = 0.0
    for case, arrays in cases(name).items():
        if case != "generate" and set(inputs_of(model, arrays)):
            worst = max(worst, difference(run(model, inputs_of(model, arrays)), arrays))
    return f"{worst:.0e}"


def exported(name: str, model: Any, file: Path, **options: Any) -> Any:
    """Write `file` without a cache, for inputs of the sizes of the first case, and return the result."""
    arrays = inputs_of(model, first_case(name))
    if model.generates:
        options["cache"] = False
    if file.suffix == ".onnx":
        return export.to_onnx(model, file, **options)
    sizes: dict[Any, int] = {}
    for spec in model.signature.inputs:
        if spec.name in arrays:
            sizes |= dict(zip(spec.dims, arrays[spec.name].shape, strict=True))
    if "sequence" in sizes:
        options["sequence_length"] = sizes["sequence"]
    batches = {dim: sizes[dim] for dim in ("batch", "text_batch", "image_batch") if dim in sizes}
    options["batch_size"] = batches["batch"] if set(batches) == {"batch"} else batches
    if "height" in sizes:
        options["image_size"] = (sizes["height"], sizes["width"])
    return export.to_tflite(model, file, **options)


def file_of(suffix: str) -> Measure:
    def measure(name: str, model: Any, folder: Path) -> str:
        exported(name, model, folder / f"m{suffix}")
        found = export.load(folder / f"m{suffix}").run(inputs_of(model, first_case(name)))
        return f"{difference(found, first_case(name)):.0e}"

    return measure


def rounded(suffix: str) -> Measure:
    def measure(name: str, model: Any, folder: Path) -> str:
        result = exported(name, model, folder / f"m{suffix}", precision="int8", least_cosine=0.3)
        return f"{result.accuracy.cosine:.3f}"

    return measure


def generates(name: str, model: Any, folder: Path) -> str:
    if not model.generates or "generate" not in cases(name):
        return "–"
    asked = cases(name)["generate"]
    prompt = [asked[key] for key in ("input_ids", "input_features", "attention_mask") if key in asked]
    options = {"max_new_tokens": 8, "stop_tokens": [], "temperature": 0, "forced_eos_token_id": None}
    export.to_onnx(model, folder / "g.onnx")
    for runner in (model, export.load(folder / "g.onnx")):
        if not np.array_equal(runner.generate(*prompt, **options)[:, -8:], asked["tokens"]):
            return "differs"
    return "equal"


def genai(name: str, model: Any, folder: Path) -> str:
    if model.family != "gpt" or not model.generates:
        return "–"
    export.to_genai(model, folder / "genai")
    return "yes"


def litertlm(name: str, model: Any, folder: Path) -> str:
    if model.family != "gpt" or not model.generates:
        return "–"
    if model.tokenizer is None:
        letters = {chr(ord("a") + i): i for i in range(26)}
        tokenizers.Tokenizer(tokenizers.models.BPE(letters, [])).save(str(folder / "tokenizer.json"))
        model.tokenizer = Tokenizer.load(folder / "tokenizer.json")
    export.to_litertlm(model, folder / "m.litertlm")
    return "yes"


def round_trip(name: str, model: Any, folder: Path) -> str:
    az.to_huggingface(az.load(GOLDENS / name), folder / "again")
    theirs, ours = tensors_of(GOLDENS / name), tensors_of(folder / "again")
    same = all(name in theirs and np.array_equal(array, theirs[name]) for name, array in ours.items())
    return "equal" if same else "differs"


MEASURES: dict[str, Measure] = {
    "Keras": keras,
    "ONNX": file_of(".onnx"),
    "TFLite": file_of(".tflite"),
    "ONNX int8": rounded(".onnx"),
    "TFLite int8": rounded(".tflite"),
    "generate": generates,
    "GenAI": genai,
    "LiteRT-LM": litertlm,
    "round trip": round_trip,
}


def measured(kind: str, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for column, measure in MEASURES.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                each = [measure(n, loaded(n), Path(folder)) for n in (names if column == "Keras" else names[:1])]
                found[column] = max(each, key=float) if column == "Keras" else each[0]
            except ValueError as error:
                found[column] = f"refused: {str(error).splitlines()[0][:160]}"
    return found


def table(results: dict[str, dict[str, str]]) -> str:
    """Return the table in Markdown, with the reasons of what is refused below it."""
    reasons: list[str] = []
    lines = ["| model type | family | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    families = model_types()
    for kind, row in sorted(results.items(), key=lambda item: (families[item[0]], item[0])):
        cells = []
        for column in COLUMNS:
            text = row[column]
            if text.startswith("refused: "):
                reason = text.removeprefix("refused: ")
                reasons += [] if reason in reasons else [reason]
                text = f"no ({reasons.index(reason) + 1})"
            cells.append(text)
        lines.append(f"| {kind} | {families[kind]} | " + " | ".join(cells) + " |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="model types; default: all")
    parser.add_argument("--results", type=Path, required=True, help="JSON file of the measurements")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.is_file() else {}
    if arguments.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2], "utf-8")
        return
    for kind, names in of_type().items():
        if kind not in results and (not arguments.names or kind in arguments.names):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results[kind] = measured(kind, names)
            arguments.results.write_text(json.dumps(results, indent=1))
            print(kind, results[kind], flush=True)


if __name__ == "__main__":
    main()
