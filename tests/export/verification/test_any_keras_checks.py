"""The comparison of third-party models with their files: what it draws and compares, and the faults that it finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from attention_zoo import export
from attention_zoo.export.frontend.spec import exportable
from attention_zoo.export.onnx import exporter as onnx_exporter
from attention_zoo.export.tflite import exporter as tflite_exporter
from attention_zoo.export.verification.any_keras import AnyCase, Draws, any_cases, sample_cases
from attention_zoo.export.verification.comparison import Closeness, compare
from attention_zoo.export.verification.contents import content_checks
from attention_zoo.export.verification.draws import drawn, shaken
from attention_zoo.export.verification.quick import quick_check
from attention_zoo.export.verification.reference import Reference
from attention_zoo.signature import Signature, TensorSpec
from attention_zoo.sources import samples_of

FORMATS = ("onnx", "tflite")


def model_of(function: Callable[..., Any], *inputs: tuple[str, tuple[int, ...]]) -> keras.Model:
    """Return a model with the output "y"; `inputs` are dtypes and shapes without the batch."""
    given = [keras.Input(shape, dtype=dtype, name="abc"[i]) for i, (dtype, shape) in enumerate(inputs)]
    return keras.Model(given[0] if len(given) == 1 else given, {"y": function(*given)}, name="model")


def to(format: str) -> tuple[Any, Any]:
    return (export.to_onnx, onnx_exporter) if format == "onnx" else (export.to_tflite, tflite_exporter)


def written(model: keras.Model, file: Path, **options: Any) -> Path:
    """Export a model without the comparison with Keras."""
    exporter, module = to(file.suffix[1:])
    with mock.patch.object(module, "quick_check", lambda *_: 0.0):
        exporter(model, file, **options)
    return file


# ---- faults at edge values ----------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """A computation, a faulty one that differs from it for few values only, and the inputs."""

    right: Callable[..., Any]
    wrong: Callable[..., Any]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    formats: tuple[str, ...] = FORMATS


def _weighted(x: Any, n: Any) -> Any:
    """Return a selection by multiplication with 0 and 1, which makes NaN of infinities that were not selected."""
    chosen = ops.cast(n > 0, "float32")
    return chosen * (x / n) + (1 - chosen) * 0.0


FAULTS = {
    "division of integers truncates": Fault(
        lambda i: i // 3, lambda i: ops.cast(ops.trunc(ops.cast(i, "float32") / 3.0), "int32"), (("int32", (6,)),)
    ),
    "integers pass through float32": Fault(
        lambda i: i + 1, lambda i: ops.cast(ops.cast(i, "float32") + 1.0, "int32"), (("int32", (1,)),)
    ),
    "remainder of a negative integer": Fault(
        lambda i: i % 3, lambda i: ops.sign(i) * (ops.abs(i) % 3), (("int32", (1,)),), ("onnx",)
    ),
    "-1 is the last class": Fault(
        lambda i: ops.one_hot(i, 4), lambda i: ops.one_hot(ops.where(i < 0, i + 4, i), 4), (("int32", (1,)),)
    ),
    "a class beyond the last": Fault(
        lambda i: ops.one_hot(i, 4), lambda i: ops.one_hot(ops.minimum(i, 3), 4), (("int32", (1,)),)
    ),
    "softplus overflows": Fault(ops.softplus, lambda x: ops.log(1 + ops.exp(x)), (("float32", (1,)),)),
    "softplus overflows in one of many": Fault(ops.softplus, lambda x: ops.log(1 + ops.exp(x)), (("float32", (64,)),)),
    "log_sigmoid overflows": Fault(ops.log_sigmoid, lambda x: -ops.log(1 + ops.exp(-x)), (("float32", (1,)),)),
    "softmax overflows": Fault(
        ops.softmax,
        lambda x: ops.exp(x) / ops.sum(ops.exp(x), axis=-1, keepdims=True),
        (("float32", (4,)),),
        ("onnx",),  # LiteRT's converter makes a softmax of it
    ),
    "a selection multiplies by 0": Fault(
        lambda x, n: ops.where(n > 0, x / n, 0.0), _weighted, (("float32", (3,)), ("float32", (1,)))
    ),
    "0 / 0": Fault(
        lambda x: ops.where(ops.equal(x, 0.0), 1.0, ops.divide_no_nan(ops.sin(x), x)),
        lambda x: ops.sin(x) / x,
        (("float32", (1,)),),
    ),
    "greater or equal": Fault(
        lambda x: ops.cast(x > 0.5, "float32"), lambda x: ops.cast(x >= 0.5, "float32"), (("float32", (2,)),)
    ),
    "halves round up": Fault(ops.round, lambda x: ops.floor(x + 0.5), (("float32", (2,)),)),
    "no upper limit of relu6": Fault(ops.relu6, ops.relu, (("float32", (1,)),)),
    "the sign of 0": Fault(ops.sign, lambda x: ops.where(x >= 0, 1.0, -1.0), (("float32", (1,)),)),
    "a logarithm has a lowest argument": Fault(ops.log, lambda x: ops.log(ops.maximum(x, 1e-7)), (("float32", (3,)),)),
    "False is True": Fault(
        lambda b: ops.cast(b, "float32"), lambda b: ops.ones_like(b, dtype="float32"), (("bool", (1,)),)
    ),
    "a row of False": Fault(
        lambda b: ops.sum(ops.cast(b, "float32"), axis=1) / ops.maximum(ops.sum(ops.cast(b, "float32"), axis=1), 1.0),
        lambda b: ops.ones_like(b[:, 0], dtype="float32"),
        (("bool", (40,)),),
    ),
}


def in_turn(names: dict[str, tuple[str, ...]]) -> list[Any]:
    """Return names and formats; for every second name one format in turn is not marked as slow."""
    return [
        pytest.param(name, format, marks=[pytest.mark.slow] * (number % 2 or j != number // 2 % len(formats)))
        for number, (name, formats) in enumerate(names.items())
        for j, format in enumerate(formats)
    ]


@pytest.mark.parametrize(("name", "format"), in_turn({name: fault.formats for name, fault in FAULTS.items()}))
def test_a_fault_at_edge_values_is_found(name: str, format: str, tmp_path: Path) -> None:
    """Check that both the comparison in an export and ``verify`` find a file of the faulty computation, and that the
    file of the right one passes."""
    fault = FAULTS[name]
    right, wrong = (model_of(function, *fault.inputs) for function in (fault.right, fault.wrong))
    file = written(wrong, tmp_path / f"wrong.{format}")
    with pytest.raises(export.ExportError, match=r"^the exported file differs from Keras: .* samples= takes others$"):
        quick_check(exportable(right), export.load(file))
    report = export.verify(right, file)
    assert [check for check in report.checks if not check.passed and check.rule], report.to_markdown()
    quick_check(exportable(wrong), export.load(file))


def test_a_fault_in_the_last_row_of_a_deep_model_is_found(tmp_path: Path) -> None:
    """Check models of many layers, of which values of all kinds are rows of one batch: a fault for large values, in one
    feature of many, and a small one for usual values, which the largest magnitude of another row must not hide."""

    def deep(end: Callable[[Any], Any]) -> keras.Model:
        x = y = keras.Input((8,), name="a")
        for _ in range(70):
            y = L.Activation("linear")(y)
        return keras.Model(x, {"y": end(y)}, name="model")

    right = deep(ops.softplus)
    assert [case.draw for case in any_cases(exportable(right).signature, 70) if case.quick] == ["mixed"]
    for end in (lambda y: ops.log(1 + ops.exp(y)), lambda y: ops.softplus(y) + 1e-3):
        file = written(deep(end), tmp_path / "wrong.onnx")
        with pytest.raises(export.ExportError, match=r"numbers of every size in the last row: y, row [01]"):
            quick_check(exportable(right), export.load(file))


# ---- models that are right ----------------------------------------------------------------------------------------


def _many(width: int) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        for _ in range(6):
            x = L.Dense(width, "gelu", kernel_initializer=keras.initializers.RandomNormal(stddev=2.0, seed=1))(x)
        return x

    return function


RIGHT = {
    "logarithm": (lambda x: L.Dense(2)(ops.log(x)), (("float32", (4,)),)),
    "square root": (lambda x: L.Dense(2)(ops.sqrt(x)), (("float32", (4,)),)),
    "arccosh": (ops.arccosh, (("float32", (4,)),)),
    "masked actions": (
        lambda s, legal: ops.where(legal, L.Dense(4)(s), -float("inf")),
        (("float32", (6,)), ("bool", (4,))),
    ),
    "exponential growth": (lambda x: ops.exp(ops.exp(L.Dense(3)(x))), (("float32", (4,)),)),
    "powers beyond float32": (lambda x: ops.square(ops.square(ops.square(ops.square(x)))), (("float32", (4,)),)),
    "deep and steep": (_many(6), (("float32", (4,)),)),
    "normalized": (lambda x: L.LayerNormalization(epsilon=1e-12)(L.Dense(8)(x)), (("float32", (4,)),)),
    "normalized at once": (L.LayerNormalization(epsilon=1e-12), (("float32", (5,)),)),
    "hash of integers": (lambda i: (i * 31 + 7) % 11, (("int32", (3,)),)),
    "a number of steps": (
        lambda x, n: ops.sum(ops.where(ops.greater(n, ops.arange(5)), x, 0.0), axis=1),
        (("float32", (5,)), ("int32", (1,))),
    ),
}


@pytest.mark.parametrize(("name", "format"), in_turn(dict.fromkeys(RIGHT, FORMATS)))
def test_a_right_file_passes(name: str, format: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    model = model_of(RIGHT[name][0], *RIGHT[name][1])
    file = tmp_path / f"m.{format}"
    to(format)[0](model, file)
    report = export.verify(model, file)
    assert report.passed, report.to_markdown()


def test_numbers_above_0_are_drawn_where_others_give_nan(tmp_path: Path) -> None:
    """Check that the results of a logarithm are compared as numbers, and that the report says how many there were."""
    model = model_of(lambda x: L.Dense(2)(ops.log(x)), ("float32", (4,)))
    export.to_onnx(model, tmp_path / "m.onnx")
    report = export.verify(model, tmp_path / "m.onnx")
    details = {check.name: check.detail for check in report.checks}
    assert "0 of 4 values are finite" in details["batch 2, seed 0"]
    assert "finite" not in details["batch 2, seed 0, numbers from 0 to 1"]
    assert "finite" not in details["batch 1, seed 1"], "further cases are drawn in the same way"
    other = model_of(lambda x: L.Dense(2)(ops.log(x)), ("float32", (4,)))
    assert not export.verify(other, tmp_path / "m.onnx").passed


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_model_without_any_finite_result_needs_samples(format: str, tmp_path: Path) -> None:
    model = model_of(lambda x: ops.log(x - 2e4) + ops.log(3e4 - x), ("float32", (4,)))  # of 2e4 to 3e4
    exporter, _ = to(format)
    with pytest.raises(
        export.ExportError, match=r"cannot be compared .*NaN or infinity alone in \['y'\]; accepted: samples= of inputs"
    ):
        exporter(model, tmp_path / f"m.{format}")
    samples = {"a": np.full((3, 4), 2.5e4)}
    exporter(model, tmp_path / f"m.{format}", samples=samples)
    assert not export.verify(model, tmp_path / f"m.{format}").passed
    report = export.verify(model, tmp_path / f"m.{format}", samples=samples)
    assert report.passed, report.to_markdown()
    assert sum(check.name.startswith("sample 0") for check in report.checks) == (1 if format == "onnx" else 3)


def test_a_model_that_rejects_what_is_drawn_needs_samples(tmp_path: Path) -> None:
    """A matrix that is drawn is not positive definite."""
    model = model_of(ops.cholesky, ("float32", (3, 3)))
    with pytest.raises(ValueError, match=r"^samples: got none, and Keras rejects .*Cholesky.*; accepted: samples= of"):
        export.to_onnx(model, tmp_path / "m.onnx")
    given = np.array([[[4, 2, 0], [2, 5, 1], [0, 1, 3]]], "float32")
    file = export.to_onnx(model, tmp_path / "m.onnx", samples=[{"a": given}]).path
    np.testing.assert_allclose(export.load(file).run(given)["y"], np.linalg.cholesky(given), rtol=1e-5, atol=1e-6)


# ---- values that Keras rejects --------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("checks")
class Rejecting(L.Layer):
    """A layer whose first input must be in a range, which its call checks and no signature declares."""

    def __init__(self, low: float, high: float, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high

    def call(self, x: Any, other: Any) -> Any:
        if not isinstance(x, keras.KerasTensor) and hasattr(x, "numpy"):
            values = x.numpy()
            if values.min() < self.low or values.max() > self.high:
                raise ValueError("out of range")
        return ops.cast(x, "float32") * 0.5 + ops.cast(other // 2, "float32")

    def compute_output_spec(self, x: Any, other: Any) -> Any:
        return keras.KerasTensor(x.shape, "float32")


@pytest.mark.parametrize(
    ("dtype", "low", "high", "fed"),
    [
        ("int32", -9, 9, "-9 to 9"),
        ("int32", 0, 9, "0 to 9"),
        ("int32", 0, 1, "0 and 1"),
        ("int32", 1, 9, "1 to 9"),
        ("float32", -20, 20, "zeros, halves and tiny numbers"),
        ("float32", 0, 1, "numbers from 0 to 1"),
    ],
)
def test_values_that_keras_rejects_are_drawn_in_a_narrower_range(
    dtype: str, low: int, high: int, fed: str, tmp_path: Path
) -> None:
    """Check that one input has the widest accepted range, that the other one still has the whole range, and that the
    report says so."""
    model = model_of(Rejecting(low, high), (dtype, (3,)), ("int32", (3,)))
    export.to_onnx(model, tmp_path / "m.onnx")
    seen: list[dict[str, np.ndarray]] = []
    call = Reference.__call__

    def recorded(self: Reference, inputs: Any) -> Any:
        outputs = call(self, inputs)
        seen.append(inputs)
        return outputs

    subject = exportable(model)
    with mock.patch.object(Reference, "__call__", recorded):
        quick_check(subject, export.load(tmp_path / "m.onnx"))
    assert max(np.abs(inputs["b"]).max() for inputs in seen) > 2**24
    reference = Reference(subject, subject.by_name)
    draws = Draws(reference, subject.signature)
    remarks = [draws(case)[2] for case in any_cases(subject.signature) if case.quick]
    assert any(f"a has values from {fed} only" in remark for remark in remarks), remarks


@keras.saving.register_keras_serializable("checks")
class Counting(L.Layer):
    """A layer that makes a tensor whose size is given by its second input."""

    def call(self, x: Any, n: Any) -> Any:
        return x * ops.sum(ops.arange(ops.cast(ops.max(n), "int32") + 10))

    def compute_output_spec(self, x: Any, n: Any) -> Any:
        return keras.KerasTensor(x.shape, "float32")


def test_time_steps_of_sinusoidal_positions_stay_small(tmp_path: Path) -> None:
    """LiteRT's sine has few digits for numbers of the whole range, which no time step has."""

    def positions(t: Any) -> Any:
        angles = ops.cast(t, "float32")[:, None] * np.exp(-np.arange(4) / 4).astype("float32")
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    model = model_of(positions, ("int64", ()))
    file = export.to_tflite(model, tmp_path / "m.tflite").path
    assert export.verify(model, file).passed


def test_integers_that_are_sizes_stay_small() -> None:
    """Check that no tensor of 2**31 values is made."""
    model = model_of(lambda x, n: Counting()(ops.cast(x, "int32"), n), ("float32", (3,)), ("int32", (1,)))
    subject = exportable(model)
    reference = Reference(subject, subject.by_name)
    assert reference.only_small("b", subject.signature) and not reference.only_small("a", subject.signature)
    draws = Draws(reference, subject.signature)
    for case in any_cases(subject.signature):
        if not case.tried:
            assert np.abs(draws(case)[0]["b"]).max() <= 9


# ---- what is drawn --------------------------------------------------------------------------------------------------


def of(*specs: TensorSpec, **options: Any) -> Signature:
    return Signature(specs, (), padded=(), **options)


def all_drawn(signature: Signature, layers: int = 0) -> list[dict[str, np.ndarray]]:
    reference: Any = mock.Mock(return_value={}, only_small=lambda *_: False)
    draws = Draws(reference, signature)
    return [draws(case)[0] for case in any_cases(signature, layers) if case.quick]


@pytest.mark.parametrize("layers", [0, 100])
@pytest.mark.parametrize("rows", ["batch", 1])
@pytest.mark.parametrize("shape", [(1,), (6,), (50, 4)])
def test_the_first_check_has_all_kinds_of_values(shape: tuple[int, ...], rows: Any, layers: int) -> None:
    signature = of(
        TensorSpec("x", "float32", (rows, *shape)),
        TensorSpec("i", "int32", (rows, *shape)),
        TensorSpec("ids", "int32", (rows, *shape), below=30),
        TensorSpec("b", "bool", (rows, *shape)),
    )
    found = all_drawn(signature, layers)
    joined = {name: np.concatenate([inputs[name].ravel() for inputs in found]) for name in found[0]}
    x, i = joined["x"], joined["i"]
    assert {0.0, 120.0, -120.0} <= {*x.tolist()} or (layers and shape == (1,))
    if not layers or shape == (50, 4):
        assert 1e4 in x and -1e4 in x and ((np.abs(x) < 1e-5) & (x != 0)).any()
        assert np.signbit(x[x == 0]).any() and not np.signbit(x[x == 0]).all()
        assert np.abs(i).max() > 2**24 and -1 in i and 0 in i
        assert layers or (i.min() < -(2**24) and i.max() > 2**24)
        assert all(np.abs(np.sum(inputs["i"], axis=-1, dtype="int64")).max() < 2**31 for inputs in found)
    assert joined["ids"].min() >= 0 and joined["ids"].max() == 29 and 0 in joined["ids"]
    assert {*joined["b"].tolist()} == {True, False}


def test_text_like_ids_have_padding_and_a_row_of_it() -> None:
    signature = of(TensorSpec("ids", "int32", ("batch", "sequence"), below=30), examples={"sequence": 12})
    first, second = all_drawn(signature)
    assert (first["ids"][1, -4:] == 0).all() and first["ids"][1, :8].any() and first["ids"].max() == 29
    assert (second["ids"][-1] == 0).all() and second["ids"].any()
    fixed = of(TensorSpec("ids", "int32", (1, 12), below=30))
    assert any((inputs["ids"] == 0).all() for inputs in all_drawn(fixed))


def test_ids_have_the_declared_limits() -> None:
    signature = of(
        TensorSpec("ids", "int32", ("batch", 40), below=5, least=-3),
        TensorSpec("columns", "int32", ("batch", 40), below="sequence"),
        TensorSpec("x", "float32", ("batch", "sequence")),
        examples={"sequence": 6},
    )
    for inputs in all_drawn(signature):
        assert inputs["ids"].min() == -3 and inputs["ids"].max() == 4
        assert inputs["columns"].min() == 0 and inputs["columns"].max() == 5


@pytest.mark.parametrize("name", ["mask", "input_pos", "cache_position", "attention_mask"])
@pytest.mark.parametrize("spec", [("float32", (6, 6, 1)), ("int32", (5,)), ("bool", (3, 4, 5)), ("int64", ())])
def test_names_of_inputs_do_not_matter(name: str, spec: tuple[str, tuple[int, ...]]) -> None:
    signature = of(TensorSpec(name, spec[0], ("batch", *spec[1])))
    for inputs in all_drawn(signature):
        assert inputs[name].dtype == spec[0] and inputs[name].shape[1:] == spec[1]


def test_simulated_rounding_spares_edge_values() -> None:
    signature = of(TensorSpec("x", "float32", (8, 30)))
    inputs = drawn(signature, {}, {"x": "edges"}, "edges")
    moved = shaken(inputs)["x"]
    assert (moved[inputs["x"] == 0.5] == 0.5).all() and (moved != inputs["x"]).any()
    np.testing.assert_allclose(moved, inputs["x"], rtol=3e-7)


# ---- NaN and infinities ---------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("file", "keras_", "exact", "passes"),
    [
        (NAN, NAN, NAN, True),
        (INF, INF, INF, True),
        (-INF, INF, INF, False),
        (NAN, INF, INF, False),
        (NAN, 1.0, 1.0, False),
        (1.0, NAN, NAN, False),
        (INF, 1.0, 1.0, False),
        (1e38, INF, INF, False),
        (1e38, INF, 1e39, True),  # Keras overflows in float32 only
        (NAN, INF, 1e39, True),
        (1.0, NAN, 1.0, True),
        (2.0, 1.0, 1.0, False),  # the other values are compared
    ],
)
def test_nan_and_infinities_are_right_where_keras_has_them(
    file: float, keras_: float, exact: float, passes: bool
) -> None:
    def of(value: float, dtype: str = "float32") -> dict[str, np.ndarray]:
        return {"y": np.array([[value, 1.0, NAN]], dtype)}

    check = compare("", of(file), of(keras_), lambda _: of(exact, "float64"), 2e-5, finite=False)
    assert check.passed == passes, check
    assert "values are finite" in check.detail or not passes
    assert not compare("", of(keras_), of(keras_), lambda _: of(exact), 2e-5).passed, "not for our own families"


def test_large_integers_must_be_equal() -> None:
    """Check an error of 1 in integers of 2**31, which would be small relative to the magnitude."""
    one, other = (np.array([[2**31 - 1, value]], "int32") for value in (7, 8))
    assert compare("", {"y": one}, {"y": one}, lambda _: {"y": one}, 2e-5).passed
    assert not compare("", {"y": other}, {"y": one}, lambda _: {"y": one}, 2e-5).passed
    assert compare("", {"y": other}, {"y": one}, lambda moved: {"y": other if moved else one}, 2e-5).passed


def test_rows_can_be_compared_by_themselves() -> None:
    one = {"y": np.array([[1.0, 2.0], [1e6, 1.0]])}
    other = {"y": np.array([[1.0, 2.1], [1e6, 1.0]])}
    assert compare("", other, one, lambda _: one, 2e-5).passed
    check = compare("", other, one, lambda _: one, 2e-5, by_row=["y"])
    assert not check.passed and check.detail.startswith("y, row 0:")


def test_rounded_files_with_nan_are_compared_by_the_cosine() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(2, 64)).astype("float32")
    one[0, 3] = NAN
    near, far = one * 1.001, np.where(np.isnan(one), 30.0, one)
    assert compare("", {"y": near}, {"y": one}, lambda _: {}, Closeness(0.999), finite=False).passed
    assert not compare("", {"y": far}, {"y": one}, lambda _: {}, Closeness(0.999), finite=False).passed


# ---- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_samples_take_the_place_of_synthetic_inputs(format: str, tmp_path: Path) -> None:
    """Check with a file that is wrong for negative numbers only."""
    right, wrong = (model_of(function, ("float32", (3,))) for function in (ops.abs, lambda x: x * 1.0))
    file = written(wrong, tmp_path / f"m.{format}")
    above, below = {"a": np.array([[1.0, 2, 3], [4, 5, 6]])}, {"a": np.array([[1.0, 2, -3]])}
    quick_check(exportable(right), export.load(file), above)
    with pytest.raises(export.ExportError, match="sample 1: y"):
        quick_check(exportable(right), export.load(file), [above, below])
    report = export.verify(right, file, samples=above)
    assert not [check for check in report.checks if not check.passed and check.rule], report.to_markdown()
    assert not export.verify(right, file, samples=[above, below]).passed


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"x": [[1.0, 2, 3]]}, r"^inputs: got \['x'\]; .*accepted: \['a'\]"),
        ({"a": [["a text"]]}, r"^a: got "),
        ({"a": [[1.0, 2]]}, r"^a: got shape"),
        (["a text"], r"^samples: got texts for a model without a tokenizer"),
        (7, r"^samples: got 7"),
        ([], r"^samples: got \[\]"),
    ],
)
def test_samples_that_do_not_fit(samples: Any, message: str, tmp_path: Path) -> None:
    model = model_of(ops.abs, ("float32", (3,)))
    for exporter, file in ((export.to_onnx, "m.onnx"), (export.to_tflite, "m.tflite")):
        with pytest.raises(ValueError, match=message):
            exporter(model, tmp_path / file, samples=samples)
    export.to_onnx(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=message):
        export.verify(model, tmp_path / "m.onnx", samples=samples)


def test_a_sample_of_more_rows_than_a_call_takes() -> None:
    signature = of(
        TensorSpec("x", "float32", ("batch", 3)), TensorSpec("n", "int32", (2,)), sizes={"batch": 2}, examples={}
    )
    cases = sample_cases(signature, [{"x": np.zeros((5, 3)), "n": [1, 2]}], 2)
    assert [case.label for case in cases] == ["sample 0, row 0", "sample 0, row 2", "sample 0, row 4"]
    given = [case.given for case in cases if case.given is not None]
    assert [len(one["x"]) for one in given] == [2, 2, 1] and given[0]["x"].dtype == "float32"
    assert [case.quick for case in cases] == [True, True, False]
    assert AnyCase(sizes={"batch": 1}).name == "batch 1, seed 0"


def test_samples_of_a_file(tmp_path: Path) -> None:
    """Check the inputs that the command line reads."""
    np.savez(tmp_path / "s.npz", a=np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(samples_of("samples", tmp_path / "s.npz")["a"], [[0, 1, 2], [3, 4, 5]])
    (tmp_path / "s.txt").write_text("one\n\ntwo\n")
    assert samples_of("samples", tmp_path / "s.txt") == ["one", "two"]
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))  # pickled
    (tmp_path / "bad.npz").write_text("text")
    for name in ("objects.npz", "bad.npz", "none.npz"):
        with pytest.raises(ValueError, match=r"^samples: got .*; accepted: "):
            samples_of("samples", tmp_path / name)


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report_names_the_rule_and_what_is_wrong(tmp_path: Path) -> None:
    """Check that a rounded file with a tolerance of one's own is not said to be judged by the cosine, and that a config
    that cannot be read is not said to be of another family."""
    model = model_of(L.Dense(64), ("float32", (32,)))
    export.to_onnx(model, tmp_path / "m.onnx", precision="fp16")
    by_cosine = export.verify(model, tmp_path / "m.onnx")
    assert by_cosine.passed and by_cosine.by_cosine and "fp16: cosine of at least" in by_cosine.to_markdown()
    report = export.verify(model, tmp_path / "m.onnx", tolerance=0.1)
    assert report.passed and not report.by_cosine and "tolerance 1e-01" in report.to_markdown()
    runner = export.load(tmp_path / "m.onnx")
    runner.metadata["attention_zoo.config"] = "no JSON"
    config = next(check for check in content_checks(exportable(model), runner) if check.name == "config")
    assert not config.passed and "cannot be read" in config.detail and "family" not in config.detail


def test_a_metric_that_is_no_function_is_told_before_the_conversion(tmp_path: Path) -> None:
    model = model_of(L.Dense(64), ("float32", (32,)))
    with pytest.raises(ValueError, match=r"^metric: got 'accuracy'; accepted: a function of a Runner, or None"):
        export.to_onnx(model, tmp_path / "m.onnx", precision="int8", metric="accuracy")  # pyright: ignore
