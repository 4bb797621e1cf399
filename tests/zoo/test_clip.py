"""CLIP and SigLIP: their pooling, their two batches, files of other versions, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_checkpoints import GOLDENS, changed

import attention_zoo as az
from attention_zoo import export
from attention_zoo.layers import AttentionPooling
from attention_zoo.layers.feedforward import ACTIVATIONS
from attention_zoo.layers.pooling import state_at
from helpers import close, float64, numpy, randomise, run, shared


def pair(rng: Any, texts: int, images: int, length: int = 6) -> dict[str, np.ndarray]:
    return {
        "input_ids": rng.integers(0, 61, (texts, length)).astype("int32"),
        "pixel_values": rng.normal(size=(images, 20, 20, 3)).astype("float32"),
    }


def test_quick_gelu() -> None:
    x = np.linspace(-6, 6, 25).astype("float32")
    close(numpy(ACTIVATIONS["quick_gelu"](x)), x / (1 + np.exp(-1.702 * x.astype("float64"))), atol=1e-6)


def test_attention_pooling_is_its_definition(rng: Any) -> None:
    layer, x = AttentionPooling(2, 5, activation="relu", norm_epsilon=0.1), rng.normal(size=(3, 4, 6))
    layer.build((None, 4, 6))
    randomise(layer)
    w = {each.path.partition("/")[2]: float64(each) for each in layer.weights}

    def dense(name: str, values: np.ndarray) -> np.ndarray:
        return values @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    q, k, v = (dense(f"attention/{name}", given) for name, given in (("query", w["query"]), ("key", x), ("value", x)))
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        scores = np.exp(q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(3))
        heads.append(scores / scores.sum(-1, keepdims=True) @ v[..., part])
    h = dense("attention/output", np.concatenate(heads, -1))
    normal = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 0.1)
    inner = np.maximum(dense("feedforward/up", normal * w["norm/gamma"] + w["norm/beta"]), 0)
    close(numpy(layer(x.astype("float32"))), (h + dense("feedforward/down", inner))[:, 0], atol=1e-5)


def test_state_at(rng: Any) -> None:
    states, index = rng.normal(size=(3, 5, 2)).astype("float32"), np.array([4, 0, 2])
    close(numpy(state_at(states, index)), states[np.arange(3), index], atol=0)


@pytest.mark.parametrize("variant", ["clip", "siglip"])
def test_every_text_is_compared_with_every_image(variant: str, rng: Any) -> None:
    """The two batches are independent, and their order is that of the rows and columns of the logits."""
    model, inputs = shared("clip", variant), pair(rng, 3, 2)
    results = run(model, inputs)
    for name in ("text_embeds", "image_embeds"):
        close(np.square(results[name]).sum(-1), np.ones(len(results[name])), atol=1e-5)
    expected = results["text_embeds"] @ results["image_embeds"].T * np.exp(numpy(model.logit_scale))
    expected = expected + (0 if model.logit_bias is None else numpy(model.logit_bias))
    close(results["logits_per_text"], expected, atol=1e-5)
    close(results["logits_per_image"], expected.T, atol=1e-5)
    one = run(model, {"input_ids": inputs["input_ids"][1:2], "pixel_values": inputs["pixel_values"][1:]})
    close(one["logits_per_text"], expected[1:2, 1:], atol=1e-5)


def test_a_text_is_read_at_its_end(rng: Any) -> None:
    """What follows the first end token changes nothing, and the last column is read by SigLIP only."""
    ids = rng.integers(0, 60, (1, 8)).astype("int32")
    ids[0, 4] = 60
    other = np.where(np.arange(8) > 4, (ids + 1) % 60, ids).astype("int32")
    one, two = (run(shared("clip", "text"), {"input_ids": given})["pooler_output"] for given in (ids, other))
    close(one, two, atol=1e-6)
    one, two = (run(shared("clip", "siglip_text"), {"input_ids": given})["pooler_output"] for given in (ids, other))
    assert np.abs(one - two).max() > 1e-3


def test_the_encoders_are_those_of_the_whole(rng: Any) -> None:
    whole, inputs = shared("clip", "clip"), pair(rng, 2, 2)
    results = run(whole, inputs)
    for tower, name in (("text", "input_ids"), ("image", "pixel_values")):
        alone = az.CLIP({**whole.config.to_dict(), "tower": tower, "head": "projection"})
        assert not alone.transfer_weights(whole)
        embeds = run(alone, {name: inputs[name]})[f"{tower}_embeds"]
        close(embeds / np.sqrt(np.square(embeds).sum(-1, keepdims=True)), results[f"{tower}_embeds"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_batches_in_an_exported_file(format: str, tmp_path: Path, rng: Any) -> None:
    model, inputs, file = shared("clip", "siglip"), pair(rng, 3, 2, 20), tmp_path / f"m.{format}"
    if format == "onnx":
        export.to_onnx(model, file)
    else:
        with pytest.raises(ValueError, match=r"batch_size: got \{'batch': 3\}; accepted: .* \['text_batch'"):
            export.to_tflite(model, file, batch_size={"batch": 3})
        export.to_tflite(model, file, batch_size={"text_batch": 3, "image_batch": 2})
    results = export.load(file).run(inputs)
    for name, expected in run(model, inputs).items():
        close(results[name], expected, atol=1e-4)
    assert export.verify(model, file).passed


def agrees(model: Any, name: str) -> None:
    arrays = {
        key.partition("/")[2]: value
        for key, value in np.load(GOLDENS / name / "golden.npz").items()
        if key.startswith(("square/", "right/"))
    }
    if "pixel_values" in arrays:
        arrays["pixel_values"] = arrays["pixel_values"].transpose(0, 2, 3, 1)
    results = run(model, {spec.name: arrays[spec.name] for spec in model.signature.inputs})
    for key in set(results) & set(arrays):
        close(results[key], arrays[key], atol=1e-4) if "hidden" not in key else None


def test_entries_given_twice(tmp_path: Path) -> None:
    """Those of `text_config_dict` win, as in transformers."""
    given = json.loads((GOLDENS / "clip" / "config.json").read_text())["text_config"]
    twice = {"text_config": {**given, "hidden_act": "relu"}, "text_config_dict": given}
    agrees(az.load(changed("clip", tmp_path, twice)), "clip")


def test_encoders_as_transformers_4_saved_them(tmp_path: Path) -> None:
    """An encoder without a head had the prefix of the whole model too."""
    for name, prefix in (("clip-text-model", "text_model."), ("siglip-vision-model", "vision_model.")):
        agrees(az.load(changed(name, tmp_path, rename=lambda key, prefix=prefix: prefix + key)), name)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("clip", {"architectures": ["CLIPForImageClassification"]}, "architectures: got"),
        ("clip", {"text_config": 3}, "text_config: got 3; accepted: an object"),
        ("clip", {"vision_config": {"model_type": "siglip_vision_model"}}, "vision_config: got model_type"),
        ("clip-text-model", {"hidden_act": "mish"}, "hidden_act: got 'mish'"),
        ("siglip-vision-model", {"vision_use_head": 1}, "vision_use_head: got 1"),
        ("siglip-vision-model", {"model_type": "siglip2_vision_model"}, "model_type 'siglip2_vision_model'"),
    ],
)
def test_what_is_refused(name: str, config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        az.load(changed(name, tmp_path, config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tower": "text"}, "head: got 'contrastive' with tower='text'"),
        ({"head": None}, "head: got None with tower='both'"),
        ({"tower": "text", "head": "projection", "projection": "text"}, "head: got 'projection' with projection"),
        ({"tower": "image", "head": "projection", "image_pooling": "none"}, "image_pooling: got 'none'"),
        ({"projection": "text"}, "projection_dim: got 512"),
        ({"image_size": 8}, "image_size: got 8; accepted: at least patch_size=32"),
        ({"eos_token_id": -1}, "eos_token_id: got -1"),
    ],
)
def test_configs_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        az.CLIPConfig(**fields)
