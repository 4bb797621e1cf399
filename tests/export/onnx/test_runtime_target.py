"""``target="onnxruntime"``: ONNX Runtime's GroupQueryAttention, with a key/value cache that is updated in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest

from attention_zoo import export
from helpers import close, numpy, run, tiny

LLAMA = {"head_dim": 16, "max_length": 96}
MODELS: dict[str, Any] = {
    "llama": lambda: tiny("gpt", "llama", **LLAMA),
    "window": lambda: tiny("gpt", "llama", **LLAMA, sliding_window=5),
    "qwen, norms and biases": lambda: tiny("gpt", "qwen", **LLAMA),
    "interleaved, scaled": lambda: tiny("gpt", "gptj", hidden_dim=64, max_length=96),
    "yarn": lambda: tiny(
        "gpt",
        "llama",
        **LLAMA,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
    ),
    "windows and other positions in some layers": lambda: tiny("gpt", "gemma", **LLAMA, attention_softcap=None),
    "norms over all heads": lambda: tiny("gpt", "olmo", **LLAMA, attention_sinks=False),
    "untied, no groups": lambda: tiny("gpt", "llama", **LLAMA, num_kv_heads=4, tie_embeddings=False),
}
GREEDY: dict[str, Any] = {"max_new_tokens": 20, "stop_tokens": []}


def exported(model: Any, folder: Path, **options: Any) -> Any:
    result = export.to_onnx(model, folder / "m.onnx", target="onnxruntime", **options)
    layers = model.config.num_layers
    assert result.fused["attention"] == (layers, layers) and result.fused["rotary"] == (2 * layers, 2 * layers)
    found, expected = result.fused["normalization"]
    assert found == expected >= 2 * layers + 1
    return export.load(folder / "m.onnx")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if "windows" in n else pytest.mark.slow) for n in MODELS])
def test_it_computes_what_keras_computes(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    runner = exported(model, tmp_path)
    assert export.verify(model, tmp_path / "m.onnx").passed
    nodes = [node.op_type for node in onnx.load(str(tmp_path / "m.onnx")).graph.node]
    assert nodes.count("GroupQueryAttention") == model.config.num_layers
    assert not {"Attention", "CumSum", "RotaryEmbedding"} & set(nodes)
    assert nodes.count("Concat") <= 1  # none for the cache
    ids = np.array([[5, 6, 7, 8, 9, 10, 11], [0, 0, 0, 0, 12, 13, 14], [0, 0, 0, 0, 0, 0, 15], [3, 0, 4, 0, 0, 5, 0]])
    mask = (ids > 0).astype("int64")
    expected = numpy(model.generate(ids, mask, **GREEDY))
    assert np.array_equal(runner.generate(ids, mask, **GREEDY), expected)
    beams = {**GREEDY, "max_new_tokens": 6, "num_beams": 3}
    assert np.array_equal(runner.generate(ids, mask, **beams), numpy(model.generate(ids, mask, **beams)))


def test_every_position_up_to_the_last(tmp_path: Path) -> None:
    """Compare decode steps up to the end of the cache with Keras; they exceed the room that was requested at first."""
    model = MODELS["llama"]()
    runner = exported(model, tmp_path)
    ids = np.random.default_rng(0).integers(1, 97, (2, 96))
    mask = np.ones_like(ids)
    mask[1, :4] = 0
    expected = run(model, {"input_ids": ids, "attention_mask": mask})["logits"]
    decoder = runner.decoder()
    found = [decoder.prompt(ids[:, :10], mask[:, :10], 3)]
    found += [decoder.step(ids[:, i]) for i in range(10, 96)]
    close(np.stack(found, 1), expected[:, 9:], 2e-5 * np.abs(expected).max())


def test_what_unwritten_slots_hold_does_not_matter(tmp_path: Path) -> None:
    runner = exported(MODELS["llama"](), tmp_path)
    ids, mask = np.array([[5, 6, 7], [0, 0, 9]]), np.array([[1, 1, 1], [0, 0, 1]])
    sound, spoilt = runner.decoder(), runner.decoder()
    first = sound.prompt(ids, mask, 8), spoilt.prompt(ids, mask, 8)
    close(*first, 0)
    spoilt._buffers(2, {})  # pyright: ignore
    spoilt.room = sound.room
    for name, value in sound.buffers.items():
        array = value.numpy().copy()
        array[0, :, 3:], array[1, :, 1:] = np.nan, np.nan
        spoilt.buffers[name].update_inplace(array)
    for token in (11, 12, 13):
        close(spoilt.step(np.array([token, token])), sound.step(np.array([token, token])), 0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_in_every_precision(precision: str, tmp_path: Path) -> None:
    model = MODELS["llama"]()
    runner = exported(model, tmp_path, precision=precision, least_cosine=0.8)
    report = export.verify(model, tmp_path / "m.onnx")
    assert report.passed, report.to_markdown()
    ids, mask = np.array([[5, 6, 7, 8], [0, 0, 9, 10]]), np.array([[1, 1, 1, 1], [0, 0, 1, 1]])
    together = runner.generate(ids, mask, **GREEDY)
    for row in range(2):
        alone = runner.generate(ids[row : row + 1], mask[row : row + 1], **GREEDY)
        assert np.array_equal(alone[0], together[row])
    if precision == "fp16":
        assert np.array_equal(together, keras.ops.convert_to_numpy(model.generate(ids, mask, **GREEDY)))


def test_padding_on_the_left_is_refused_where_it_would_be_wrong(tmp_path: Path) -> None:
    runner = exported(MODELS["llama"](), tmp_path)
    ids = np.array([[5, 6, 7]])
    for mask in ([[0, 1, 1]], [[1, 0, 1]], [[0, 0, 0]]):
        with pytest.raises(ValueError, match=r"attention_mask: got rows with padding in front.*on the right"):
            runner.run({"input_ids": ids, "attention_mask": np.array(mask)})
    right = runner.run({"input_ids": ids, "attention_mask": np.array([[1, 1, 0]])})["logits"][:, 1]
    close(right, runner.run({"input_ids": ids[:, :2]})["logits"][:, 1], 1e-5)


@pytest.mark.parametrize(
    ("family", "variant", "reason"),
    [
        ("gpt", "gpt2", "positions are not rotary"),
        pytest.param("gpt", "alibi", "positions are not rotary", marks=pytest.mark.slow),
        ("gpt", "llama", "with a head_dim of 12"),
        ("gpt", "olmo", "no single operator, such as one with sinks"),
        pytest.param("transformer", "original", "with an encoder", marks=pytest.mark.slow),
    ],
)
def test_what_the_operator_cannot_do_is_refused(family: str, variant: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"target: got 'onnxruntime' .*{reason}.*accepted: None or 'standard'"):
        export.to_onnx(tiny(family, variant), tmp_path / "m.onnx", target="onnxruntime")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_has_no_cache_is_as_it_was(tmp_path: Path) -> None:
    model = tiny("bert", "backbone")
    export.to_onnx(model, tmp_path / "standard.onnx", opset=23)
    export.to_onnx(model, tmp_path / "onnxruntime.onnx", target="onnxruntime")
    assert (tmp_path / "standard.onnx").read_bytes() == (tmp_path / "onnxruntime.onnx").read_bytes()
