"""Compare models of real sizes with transformers and torch.onnx: parameters, seconds to load, latency of the files.

    python benchmarks/model_kinds.py write FOLDER     # in an environment with torch, transformers and onnxscript
    python benchmarks/model_kinds.py measure FOLDER   # in the environment of this package

``write`` saves one model of random weights of each kind in the shapes of published ones, its outputs, its ONNX file by
torch.onnx, and the seconds of ``from_pretrained`` (with one sum of each weight, since the file is only mapped).
``measure`` loads the folders, compares the outputs, writes ONNX and TFLite files, and takes the best of interleaved
rounds in one process. A model that no TFLite file of 2 GB holds has no such file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LENGTH, ROUNDS = 128, 20
SIZES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma3-270m": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **{"vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18},
            **{"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512},
        },
    ),
    "phi3-mini-4-layers": ("Phi3ForCausalLM", "Phi3Config", {"num_hidden_layers": 4}),
    "modernbert-base": ("ModernBertForMaskedLM", "ModernBertConfig", {}),
    "mpnet-base": ("MPNetModel", "MPNetConfig", {}),
    "siglip-base": ("SiglipVisionModel", "SiglipVisionConfig", {}),
    "bart-base": (
        "BartForConditionalGeneration",
        "BartConfig",
        {
            **{"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 3072},
            **{"decoder_ffn_dim": 3072, "encoder_attention_heads": 12, "decoder_attention_heads": 12},
        },
    ),
}


def inputs_of(name: str) -> dict[str, np.ndarray]:
    """Return one text of 128 tokens, or one image with channels first."""
    if name == "siglip-base":
        return {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype("float32")}
    ids = np.random.default_rng(0).integers(5, 1000, (1, LENGTH))
    found = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {**found, "decoder_input_ids": ids} if name == "bart-base" else found


def write(folder: Path) -> None:
    import torch
    import transformers as hf

    for name, (cls, config, changes) in SIZES.items():
        place = folder / name
        if not (place / "config.json").is_file():
            torch.manual_seed(0)
            getattr(hf, cls)(getattr(hf, config)(**changes)).save_pretrained(place)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            model = getattr(hf, cls).from_pretrained(place, dtype=torch.float32).eval()
            total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
            seconds.append(time.perf_counter() - start)
        assert np.isfinite(total)
        facts = {"parameters": sum(p.numel() for p in model.parameters()), "seconds": min(seconds)}
        (place / "peer.json").write_text(json.dumps(facts))
        inputs = {key: torch.tensor(value) for key, value in inputs_of(name).items()}
        model.config.use_cache = False
        if not (place / "expected.npy").is_file():
            with torch.no_grad():
                np.save(place / "expected.npy", np.asarray(model(**inputs)[0]))
        if not (place / "torch.onnx").is_file():
            batch = {0: torch.export.Dim("batch", min=1, max=64)}
            shapes = dict.fromkeys(inputs, batch)
            torch.onnx.export(model, (), place / "torch.onnx", kwargs=inputs, dynamo=True, dynamic_shapes=shapes)
        print(name, facts, flush=True)
    print({package: version(package) for package in ("torch", "transformers", "onnxscript")})


def best_of(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the best milliseconds of each of the functions, which take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def measure(folder: Path) -> None:
    import onnxruntime

    import attention_zoo as az
    from attention_zoo import export

    packages = ("keras", "tensorflow", "onnxruntime", "ai-edge-litert")
    print(f"{platform.machine()}, {os.cpu_count()} cores", {package: version(package) for package in packages})
    for name in SIZES:
        place = folder / name
        peer, given = json.loads((place / "peer.json").read_text()), inputs_of(name)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            model = az.load(place)
            seconds.append(time.perf_counter() - start)
        ours = {key: value.transpose(0, 2, 3, 1) if key == "pixel_values" else value for key, value in given.items()}
        options: dict[str, Any] = {"cache": False} if model.generates else {}
        export.to_onnx(model, place / "ours.onnx", **options)
        runner, theirs = export.load(place / "ours.onnx"), onnxruntime.InferenceSession(str(place / "torch.onnx"))
        fed = {node.name: given[node.name] for node in theirs.get_inputs()}
        runs = {"ours": partial(runner.run, ours), "torch.onnx": partial(theirs.run, None, fed)}
        lengths = {} if name == "siglip-base" else {"sequence_length": LENGTH}
        try:
            export.to_tflite(model, place / "ours.tflite", **options, **lengths)
            runs["TFLite"] = partial(export.load(place / "ours.tflite").run, ours)
        except ValueError as error:
            print(f"{name}: no TFLite file: {str(error)[:150]}")
        parameters, found = model.count_params(), next(iter(runner.run(ours).values()))
        del model
        difference = float(np.abs(found - np.load(place / "expected.npy")).max())
        best = best_of(runs)
        print(
            f"{name:20} parameters {parameters:,} of {peer['parameters']:,}; load {min(seconds):.2f} s of "
            f"{peer['seconds']:.2f}; difference {difference:.1e}; "
            + ", ".join(f"{key} {value:.1f} ms" for key, value in best.items())
            + f"; ONNX {best['ours'] / best['torch.onnx']:.2f} x torch.onnx",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("write", "measure"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    (write if arguments.what == "write" else measure)(arguments.folder)


if __name__ == "__main__":
    main()
