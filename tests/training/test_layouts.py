"""``layout_map``: every weight of every family has a layout, and what cannot be divided is refused or reported."""

from __future__ import annotations

import importlib.util
import json
import math

import keras
import pytest

import attention_zoo as az
from attention_zoo.training.layouts import TABLE, layout_map
from attention_zoo.weights.fill import without_values
from attention_zoo.weights.rules import weight_name
from attention_zoo.zoo.registry import families
from helpers import FURTHER_BUT_GPT, every_variant, python

without_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")


def mesh(batch: int, model: int) -> keras.distribution.DeviceMesh:
    """Return a mesh of devices that do not exist; layouts need only its sizes."""
    devices = [f"cpu:{i}" for i in range(batch * model)]
    return keras.distribution.DeviceMesh((batch, model), ("batch", "model"), devices)


@every_variant(slow=FURTHER_BUT_GPT)
def test_every_weight_has_parts_that_its_shape_allows(family: str, variant: str) -> None:
    cls = families()[family]
    config = cls.config_class.from_dict(cls.tiny()[variant])
    layouts = layout_map(mesh(2, 2), config, fsdp=True)
    with without_values() as seen:
        weights = {weight_name(v): tuple(v.shape) for v in seen(cls(config)).weights}
    assert {one.name: one.shape for one in layouts.report.weights} == weights
    for one in layouts.report.weights:
        assert all(size % 2 == 0 for size, axis in zip(one.shape, one.axes, strict=True) if axis)
        assert one.parts == 2 ** sum(axis is not None for axis in one.axes)
        layout = layouts[f"model/{one.name}"]
        assert tuple(layout.axes) == one.axes and layout.device_mesh is layouts.device_mesh
    large = [one for one in layouts.report.weights if math.prod(one.shape) > 400 and len(one.shape) > 1]
    assert large and all(one.parts > 1 for one in large), layouts.report
    assert layouts["adam/iteration"] is None


def test_projections_are_divided_as_in_megatron() -> None:
    axes = {one.name: one.axes for one in layout_map(mesh(2, 4), "gpt2", num_layers=1).report.weights}
    assert axes["embedding/embeddings"] == (None, "model")  # 4 does not divide 50257 words
    for name in ("attention/query", "attention/key", "attention/value", "feedforward/up"):
        assert axes[f"block_0/{name}/kernel"] == (None, "model") and axes[f"block_0/{name}/bias"] == ("model",)
    for name in ("attention/output", "feedforward/down"):
        assert axes[f"block_0/{name}/kernel"] == ("model", None) and axes[f"block_0/{name}/bias"] == (None,)
    table = layout_map(mesh(2, 4), "gpt2", vocab_size=50304).report.weights[0]
    assert table.axes == ("model", None) and table.kind == "vocabulary"


def test_bytes_of_a_device() -> None:
    """Counted by hand for a block of GPT-2 in halves: kernels and the biases of columns; the rest is whole."""
    report = layout_map(mesh(1, 2), "gpt2", num_layers=1, vocab_size=50304).report
    d = 768
    halves = 50304 * d + 1024 * d + 12 * d * d + (3 + 4) * d
    assert report.device_bytes == 4 * (halves // 2 + (2 + 2 * 3) * d)  # two biases, three normalizations
    assert report.bytes == 4 * (halves + 8 * d)
    assert report.to_json()["device_bytes"] == report.device_bytes and json.dumps(report.to_json())
    assert "1 × block_*/attention/query/kernel (768, 768 over model): columns, 1/2" in str(report)


def test_grouped_heads_are_not_cut() -> None:
    sizes = {"num_layers": 1, "num_heads": 8, "num_kv_heads": 2, "hidden_dim": 64, "vocab_size": 64}
    layouts = layout_map(mesh(2, 4), "gpt", **sizes)
    whole = layouts.report.whole
    assert whole["block_0/attention/key/kernel"] == "4 devices do not divide its 2 grouped heads"
    assert "block_0/attention/query/kernel" not in whole
    assert "grouped heads" in str(layouts.report)
    fsdp = layout_map(mesh(2, 4), "gpt", fsdp=True, **sizes)
    key = next(one for one in fsdp.report.weights if one.name == "block_0/attention/key/kernel")
    assert key.axes == ("batch", None) and "grouped" in key.why


def test_experts_are_divided_as_wholes() -> None:
    cls = families()["gpt"]
    config = cls.config_class.from_dict({**cls.tiny()["experts"], "num_experts": 8})
    axes = {one.name: one.axes for one in layout_map(mesh(2, 4), config).report.weights}
    for name in ("gate", "up", "down"):
        assert axes[f"block_0/feedforward/{name}_kernel"] == ("model", None, None)
    uneven = layout_map(mesh(1, 4), cls.config_class.from_dict({**cls.tiny()["experts"], "num_experts": 6}))
    axes = {one.name: one.axes for one in uneven.report.weights}
    assert axes["block_0/feedforward/up_kernel"] == (None, None, "model")  # the inside of every expert instead
    assert axes["block_0/feedforward/down_kernel"] == (None, "model", None)


def test_adapters_follow_their_weight() -> None:
    layouts = layout_map(mesh(2, 4), "gpt2", num_layers=1)
    path = "gpt/block_0/attention"
    assert list(layouts[f"{path}/query/lora_kernel_a"].axes) == [None, None]
    assert list(layouts[f"{path}/query/lora_kernel_b"].axes) == [None, "model"]
    assert list(layouts[f"{path}/output/lora_kernel_a"].axes) == ["model", None]
    assert list(layouts[f"outer/{path}/output/lora_kernel_b"].axes) == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": {"pooler*": (None,)}}, r"rules: got 'pooler\*', which no weight matches"),
        ({"whole": ["head/*"]}, r"whole: got 'head/\*', which no weight matches"),
        (
            {"rules": {"block_0/attention/query/kernel": ("model",)}},
            r"rules: got \('model',\) for .* shape \(768, 768\)",
        ),
        ({"rules": {"embedding/embeddings": ("model", None)}}, r"rules: got .* shape \(50257, 768\)"),
        ({"rules": {"embedding/embeddings": ("expert", None)}}, "accepted: .*'batch': 2, 'model': 4"),
        ({"num_heads": 6}, r"layout_map: got 4 weights over 1% .*4 devices do not divide its 6 heads"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout_map(mesh(2, 4), "gpt2", num_layers=1, **options)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match=r"layout_map: got \d+ weights over 1% .*no device on the axis 'model'"):
        layout_map(mesh(8, 1), "gpt2", num_layers=1)
    layout_map(mesh(8, 1), "gpt2", num_layers=1, whole=("block_*", "embedding/*", "positions/*"))
    for wrong, message in ((3, "mesh: got 3"), ((3, 5), r"mesh: got \(3, 5\)")):
        with pytest.raises(ValueError, match=message):
            layout_map(wrong, "gpt2")
    with pytest.raises(ValueError, match="model: got 5"):
        layout_map(mesh(1, 2), 5)
    other = keras.distribution.DeviceMesh((2,), ("rows",), ["cpu:0", "cpu:1"])
    with pytest.raises(ValueError, match=r"mesh: got the axes \['rows'\]"):
        layout_map(other, "gpt2")


def test_own_rules_come_first() -> None:
    layouts = layout_map(mesh(2, 2), "gpt2", num_layers=1, rules={"*/query/kernel": ("batch", "model")}, whole="*/up/*")
    found = {one.name: one for one in layouts.report.weights}
    assert found["block_0/attention/query/kernel"].axes == ("batch", "model")
    assert found["block_0/feedforward/up/kernel"].why == "asked for"


def test_a_map_of_another_model_is_refused() -> None:
    layouts = layout_map(mesh(1, 2), "gpt", num_layers=1, hidden_dim=32, num_heads=4, vocab_size=64)
    model = az.create("gpt", num_layers=2, hidden_dim=32, num_heads=4, vocab_size=64)
    with pytest.raises(ValueError, match=r"layout_map: got one for another model: block_1/.*no entry in the map"):
        layouts.check_model(model)
    model = az.create("gpt", num_layers=1, hidden_dim=32, num_heads=4, vocab_size=64)
    model.enable_lora(2)
    layouts.check_model(model)


def test_paths_are_read_without_their_weights(tmp_path: object) -> None:
    model = az.create("gpt", num_layers=1, hidden_dim=32, num_heads=4, vocab_size=64, max_length=16)
    az.save(model, f"{tmp_path}/saved")
    layouts = layout_map(mesh(1, 2), f"{tmp_path}/saved")
    layouts.check_model(model)
    assert layout_map(mesh(1, 2), model).report == layouts.report


@pytest.mark.slow
def test_every_line_of_the_table_is_used() -> None:
    """A line that no weight of any family needs would hide a misspelt one."""
    import re

    used = set()
    for cls in families().values():
        for fields in cls.tiny().values():
            with without_values() as seen:
                for variable in seen(cls(cls.config_class.from_dict(fields))).weights:
                    name = weight_name(variable)
                    used.add(next(rule for rule in TABLE if re.fullmatch(rule.pattern, name)))
    assert used == set(TABLE)


PARTS = """
import keras, numpy as np, attention_zoo as az
spread = keras.distribution
sizes = {"vocab_size": 64, "num_layers": 1, "num_heads": 4, "hidden_dim": 32, "max_length": 16}
layouts = az.layout_map((2, 4), "gpt", fsdp=True, **sizes)
spread.set_distribution(spread.ModelParallel(layout_map=layouts, batch_dim_name="batch"))
model = az.create("gpt", **sizes)
def held(model):
    return {s.device.id: 0 for s in model.weights[0].value.addressable_shards} | {
        d: sum(s.data.nbytes for v in model.weights for s in v.value.addressable_shards if s.device.id == d)
        for d in range(8)}
assert set(held(model).values()) == {layouts.report.device_bytes}, (held(model), layouts.report.device_bytes)
x = np.random.default_rng(0).integers(0, 64, (8, 4))
before = model.predict(x, verbose=0)
az.save(model, FOLDER + "/saved")
assert np.array_equal(model.predict(x[:5, :3], verbose=0), model.predict(x[:, :3], verbose=0)[:5])
for dtype in (None, "bfloat16"):
    loaded = az.load(FOLDER + "/saved", dtype=dtype)
    share = layouts.report.device_bytes // (1 if dtype is None else 2)
    assert set(held(loaded).values()) == {share}, (held(loaded), share)
    assert np.abs(loaded.predict(x, verbose=0) - before).max() < (1e-6 if dtype is None else 0.05)
model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
for rows, size, text in ((21, 16, "the last batch of 5"), (27, 9, "batch_size: got 9"), (3, 32, "accepted: 2 or 4")):
    for call in (model.fit, model.evaluate):
        try:
            call(x[:1].repeat(rows, 0), x[:1].repeat(rows, 0), batch_size=size, verbose=0)
        except ValueError as error:
            assert text in str(error), error
        else:
            raise AssertionError((rows, size))
import tensorflow as tf
data = tf.data.Dataset.from_tensor_slices((x[:7], x[:7])).batch(4)
try:
    model.fit(data, verbose=0)
except ValueError as error:
    assert str(error).startswith("x: got a batch whose rows the 2 devices"), error
try:
    az.load(FOLDER + "/saved", hidden_dim=64)
except ValueError as error:
    assert "hidden_dim" in str(error) or "shape" in str(error), error
model.fit(x, x, verbose=0)
again = az.load(FOLDER + "/saved")
assert np.abs(again.predict(x, verbose=0) - before).max() < 1e-6
print("fine")
"""


@without_jax
@pytest.mark.slow
def test_devices_hold_what_the_report_says(tmp_path: object) -> None:
    """Also after loading, in both dtypes; and a refused file or batch leaves the process sound."""
    environment = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    assert python(PARTS.replace("FOLDER", repr(str(tmp_path))), **environment).strip().endswith("fine")
