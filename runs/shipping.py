"""The files of a trained model: written, compared with Keras, and asked the samples of the plan."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from ..files import no_empty_folder, written_folder
from ..needs import named_extras
from ..zoo.loading import load
from ..zoo.saving import huggingface_config, save, to_huggingface
from .plan import format_of

PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "tflite": ("tensorflow", "ai_edge_litert"),
    "litertlm": ("tensorflow", "ai_edge_litert", "litert_lm_builder", "litert_lm"),
}


@named_extras()
def check_files(model: Any, output: Mapping[str, Any]) -> None:
    """Check that the files of a plan can be written of `model`, as far as that shows before the training.

    Args:
        model: the model.
        output: the section "output" of the plan.

    Raises:
        ValueError: a file that is too long for the model, a config that no model type of Hugging Face has, or a chat
            template that LiteRT-LM cannot use.
        ModuleNotFoundError: a package is missing.
    """
    for file in output["files"]:
        kind = format_of(file)
        for package in PACKAGES.get(kind, ()):
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
        limit = model.config.max_length
        if kind in ("tflite", "litertlm") and (output["max_length"] or 0) > limit:
            raise ValueError(
                f"output.max_length: got {output['max_length']}; accepted: at most {limit}, the model's max_length"
            )
        try:
            if not kind:
                huggingface_config(model, model)
            elif kind == "litertlm":
                from ..export.bundles.litertlm import engine_prompts
                from ..export.request import ExportRequest

                engine_prompts(model, ExportRequest.of(kind, file))
        except ValueError as error:
            raise ValueError(f"output.files: got {file!r}, but {error}") from error


def slots(model: Any, file: str, output: Mapping[str, Any]) -> int:
    """Return the greatest number of tokens of a prompt and its answer together in `file`."""
    limit = model.config.max_length
    return min(limit, output["max_length"] or 512) if format_of(file) in ("tflite", "litertlm") else limit


def saved(model: Any, folder: Path) -> Path:
    """Write the model, with adapters merged, as a folder for ``az.load``; adapters are also kept beside it.

    The folder appears complete, or not at all.
    """
    if model.lora is not None:
        model.save_lora(folder.with_name("adapters.safetensors"))
    with written_folder(folder) as new:
        save(model, new)
    return folder


def shipped(prepared: Any) -> list[dict[str, Any]]:
    """Write every file of the plan and check it.

    Returns:
        For each: "path", "format", "bytes", "passed", what was "checked", and "answers": for each sample of the plan
        the texts of Keras and of the file.

    Raises:
        ValueError, ExportError: as the exporters.
    """
    model, plan = prepared.model.without_adapters(), prepared.plan
    if model is not prepared.model:
        model.tokenizer, model.generation_config = prepared.model.tokenizer, prepared.model.generation_config
        model.huggingface = prepared.model.huggingface
    asked = list(zip(plan.output["samples"], prepared.prompts, strict=True))

    def answers(file: Any) -> list[dict[str, str]]:
        found = []
        for sample, prompt in asked:
            texts = [one.generate_text(prompt, **prepared.answering) for one in (model, file)]
            found.append({"sample": sample, "keras": texts[0], "file": texts[1]})
        return found

    return [_shipped(model, Path(path), plan.output, answers) for path in plan.output["files"]]


def _shipped(model: Any, path: Path, output: Mapping[str, Any], answers: Callable[[Any], Any]) -> dict[str, Any]:
    if not format_of(str(path)):
        return _folder(model, path, answers)
    from ..export.bundles.verify import verify
    from ..export.command import export_as
    from ..runtime.loading import load as run

    options = {} if path.suffix == ".onnx" else {"max_length": output["max_length"]}
    with no_empty_folder(path):
        (result,) = export_as(lambda: model, path, None, output["precision"], {}, options)
    report = verify(model, path, **(options if path.suffix == ".litertlm" else {}))
    facts: dict[str, Any] = {"path": str(path), "format": result.format, "bytes": result.bytes}
    facts |= {"passed": bool(report.passed), "checked": f"{len(report.checks)} checks of verify"}
    return {**facts, "answers": answers(run(path))}


def _folder(model: Any, path: Path, answers: Callable[[Any], Any]) -> dict[str, Any]:
    to_huggingface(model, path)
    again: Any = load(path, dtype=model.dtype_policy.name)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 16)).astype("int32")
    ours, theirs = (ops.convert_to_numpy(ops.cast(one(ids), "float32")) for one in (model, again))
    difference = float(np.abs(ours - theirs).max())
    return {
        "path": str(path),
        "format": "huggingface",
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "passed": difference <= 1e-4 * float(np.abs(ours).max()),
        "checked": f"logits of the folder, loaded again: greatest difference {difference:.1e}",
        "answers": answers(again),
    }
