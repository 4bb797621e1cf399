"""Compare forward passes in Keras on TensorFlow with those of KerasHub's models of the same shape.

Every model runs ``predict_on_batch`` on a CPU as users get it: a graph with oneDNN, whose operators TensorFlow's graph
optimizer chooses. The models of this package run twice, without an attention mask and with one of ones; KerasHub's
always have a mask. The sides are timed in alternation, and the best of all rounds counts. The decoders have a language
modeling head that is tied to the embedding table. KerasHub has no recurrent models, so those have no peer.

    python benchmarks/forward_passes.py [--only gpt llama] [--rounds 7]

Takes about three minutes. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import keras_hub
import numpy as np

import attention_zoo as az

ROWS, LENGTH, VOCABULARY, LAYERS, HEADS, WIDTH, INNER = 8, 512, 8192, 4, 8, 256, 1024
SIZES = {"vocab_size": VOCABULARY, "num_layers": LAYERS, "num_heads": HEADS, "hidden_dim": WIDTH, "max_length": LENGTH}
THEIRS = {"vocabulary_size": VOCABULARY, "num_layers": LAYERS, "hidden_dim": WIDTH, "intermediate_dim": INNER}

Run = Callable[[], Any]


def main() -> None:
    cases = {"gpt": gpt, "llama": llama, "bert": bert, "vit": vit, "transformer": transformer, "seq2seq": seq2seq}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(cases), choices=list(cases))
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds, in each of which every side runs once")
    arguments = parser.parse_args()
    print(", ".join(f"{name} {version(name)}" for name in ("keras", "keras-hub", "tensorflow")))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, best of {arguments.rounds}\n")
    print("| model | ms without mask | ms with mask | KerasHub, ms | ratio without mask | ratio with mask |")
    print("|---|---|---|---|---|---|")
    for name in arguments.only:
        keras.utils.set_random_seed(0)
        print(row(name, best(cases[name](), arguments.rounds)), flush=True)


def best(sides: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return the least milliseconds per call of each side. The first call, which traces the model, does not count."""
    found: dict[str, float] = {}
    for run in sides.values():
        run()
    for _ in range(rounds):
        for side, run in sides.items():
            start = time.perf_counter()
            run()
            took = 1e3 * (time.perf_counter() - start)
            found[side] = min(took, found.get(side, took))
    return found


def row(name: str, took: dict[str, float]) -> str:
    def shown(side: str, form: str = ".1f") -> str:
        return format(took[side], form) if side in took else "-"

    ratios = [
        f"{took[side] / took['peer']:.2f}" if side in took and "peer" in took else "-" for side in ("plain", "masked")
    ]
    return f"| {name} | {shown('plain')} | {shown('masked')} | {shown('peer')} | {ratios[0]} | {ratios[1]} |"


def compiled(model: Any, inputs: Any) -> Run:
    model.compile()
    return lambda: model.predict_on_batch(inputs)


def ids(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, VOCABULARY, (ROWS, LENGTH)).astype("int32")


def both(ours: Any, inputs: dict[str, np.ndarray], masks: tuple[str, ...] = ("attention_mask",)) -> dict[str, Run]:
    """Return the runs of a model of this package without and with masks of ones."""
    masked = {**inputs, **{mask: np.ones_like(inputs["input_ids"]) for mask in masks}}
    return {"plain": compiled(ours, inputs), "masked": compiled(ours, masked)}


def padded(name: str = "") -> dict[str, np.ndarray]:
    """Return token ids and a mask of ones under KerasHub's names."""
    return {f"{name}token_ids": ids(), f"{name}padding_mask": np.ones((ROWS, LENGTH), "int32")}


def gpt() -> dict[str, Run]:
    ours = az.create("gpt", **SIZES, intermediate_dim=INNER)
    theirs = keras_hub.models.GPT2Backbone(**THEIRS, num_heads=HEADS, max_sequence_length=LENGTH, dropout=0.0)
    return both(ours, {"input_ids": ids()}) | {
        "peer": compiled(keras_hub.models.GPT2CausalLM(theirs, preprocessor=None), padded())
    }


def llama() -> dict[str, Run]:
    ours = az.create("smollm2-135m", **SIZES, num_kv_heads=2, head_dim=WIDTH // HEADS, intermediate_dim=INNER)
    theirs = keras_hub.models.LlamaBackbone(
        **THEIRS, num_query_heads=HEADS, num_key_value_heads=2, tie_word_embeddings=True
    )
    return both(ours, {"input_ids": ids()}) | {
        "peer": compiled(keras_hub.models.LlamaCausalLM(theirs, preprocessor=None), padded())
    }


def bert() -> dict[str, Run]:
    ours = az.create("bert-base", **SIZES, intermediate_dim=INNER)
    theirs = keras_hub.models.BertBackbone(**THEIRS, num_heads=HEADS, max_sequence_length=LENGTH, num_segments=2)
    segments = {"segment_ids": np.zeros((ROWS, LENGTH), "int32")}
    return both(ours, {"input_ids": ids()}) | {"peer": compiled(theirs, padded() | segments)}


def vit() -> dict[str, Run]:
    images = np.random.default_rng(0).uniform(-1, 1, (ROWS, 224, 224, 3)).astype("float32")
    size = {"num_layers": LAYERS, "num_heads": HEADS, "hidden_dim": WIDTH}
    ours = az.create("vit-base-16", **size, intermediate_dim=INNER, num_classes=1000)
    theirs = keras_hub.models.ViTBackbone(image_shape=(224, 224, 3), patch_size=16, mlp_dim=INNER, **size)
    classifier = keras_hub.models.ViTImageClassifier(theirs, num_classes=1000, preprocessor=None)
    return {"plain": compiled(ours, {"pixel_values": images}), "peer": compiled(classifier, images)}


def transformer() -> dict[str, Run]:
    ours = az.create("transformer-base", **SIZES, intermediate_dim=INNER)
    theirs = keras_hub.models.BartBackbone(**THEIRS, num_heads=HEADS, max_sequence_length=LENGTH)
    inputs = {"input_ids": ids(), "decoder_input_ids": ids(1)}
    masks = ("attention_mask", "decoder_attention_mask")
    logits = theirs.token_embedding(theirs.output["decoder_sequence_output"], reverse=True)
    headed = keras.Model(theirs.input, logits)
    return both(ours, inputs, masks) | {"peer": compiled(headed, padded("encoder_") | padded("decoder_"))}


def seq2seq() -> dict[str, Run]:
    ours = az.create("seq2seq", vocab_size=VOCABULARY, hidden_dim=WIDTH, max_length=LENGTH)
    return both(ours, {"input_ids": ids()[:, :64], "decoder_input_ids": ids(1)[:, :64]})


if __name__ == "__main__":
    main()
