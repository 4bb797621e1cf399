"""The cases of the matrix: small models with random weights, exported, with inputs and what Keras computes from them.

Each case is a folder with the files ``model.onnx``, ``case.json``, ``inputs.npz``, the same inputs in ``inputs.json``
for workers in JavaScript, and ``expected.npz``. The keys of both archives are the number of a set of inputs and a name:
"0/input_ids", "0/logits". An array of booleans under "valid/0/logits" tells which tokens are no padding.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from keras import layers as L

from attention_zoo import export
from attention_zoo.export.frontend.graphs import model_graphs
from attention_zoo.export.frontend.spec import exportable
from attention_zoo.export.verification.cases import TEXT, image_cases
from attention_zoo.export.verification.reference import Reference
from attention_zoo.runtime.inputs import example_inputs, is_mask, padded_mask
from attention_zoo.runtime.runner import LoadedGraph
from attention_zoo.signature import Signature
from helpers import VARIANTS, randomise, tiny  # pyright: ignore[reportMissingImports]

Arrays = dict[str, np.ndarray]
OPSETS = (17, 20, 21, 23)
FORMS = (*map(str, OPSETS), "int8", "static", "rknn")  # of the files: an opset in float32 and open shapes, or else
STATIC = {"batch": 1, "sequence": 16, "source": 16, "target": 16}
BATCHES = ((1, 7, "none"), (3, 9, "right"), (3, 9, "left"), (1, 1, "none"))  # rows, tokens, padding
FAMILIES = {"bert": "BERT", "gpt": "GPT", "vit": "ViT", "transformer": "Transformer", "seq2seq": "Seq2Seq"}


@dataclass(frozen=True)
class Subject:
    """A model to export.

    Attributes:
        name: its name.
        kind: the column of the table.
        build: returns the model with random weights.
        padded: whether the model skips padding: ids of 0, or rows of zeros. For models without a mask as an input.
    """

    name: str
    kind: str
    build: Callable[[], Any]
    padded: bool = False


@dataclass(frozen=True)
class About:
    """The content of ``case.json``.

    Attributes:
        name: the name of the case: that of the model, of the graph if there are several, and of the form.
        kind: the column of the table.
        form: one of ``FORMS``.
        opset: of the file.
        inputs: dtype and shape of every input, as in the file; sizes that are open are names.
        outputs: names of the outputs, in the order of the file.
    """

    name: str
    kind: str
    form: str
    opset: int
    inputs: dict[str, tuple[str, list[int | str]]]
    outputs: list[str]


# ---- models ----------------------------------------------------------------------------------------------------------


def _images(*stack: Any) -> Callable[[], Any]:
    return lambda: keras.Sequential([keras.Input((16, 16, 3), name="image"), *[layer() for layer in stack]])


def _series(*stack: Any) -> Callable[[], Any]:
    return lambda: keras.Sequential([keras.Input((None, 6), name="series"), *[layer() for layer in stack]])


def _tokens(*stack: Any) -> Callable[[], Any]:
    first = [lambda: keras.Input((None,), dtype="int32", name="tokens"), lambda: L.Embedding(50, 8, mask_zero=True)]
    return lambda: keras.Sequential([layer() for layer in (*first, *stack)])


def _mobile_net() -> Any:
    return keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=5)


CONVOLUTION, RECURRENT, MASKED = "convolutions", "recurrent", "masked recurrent"
KERAS = (
    Subject("keras-mobilenet_v2", CONVOLUTION, _mobile_net),
    Subject(
        "keras-convolutions",
        CONVOLUTION,
        _images(
            lambda: L.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            L.BatchNormalization,
            lambda: L.Conv2D(12, 4, strides=3, padding="same", activation="gelu"),
            lambda: L.MaxPooling2D(2, padding="same"),
            L.GlobalAveragePooling2D,
            lambda: L.Dense(5, activation="softmax"),
        ),
    ),
    Subject(
        "keras-transposed_convolution",
        CONVOLUTION,
        _images(
            lambda: L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu"),
            lambda: L.Conv2DTranspose(4, 2, strides=2, padding="valid"),
        ),
    ),
    Subject(
        "keras-depthwise",
        CONVOLUTION,
        _images(
            lambda: L.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2, activation="swish"),
            lambda: L.SeparableConv2D(8, 3, activation="elu"),
            lambda: L.AveragePooling2D(2),
        ),
    ),
    Subject(
        "keras-mlp",
        "MLP",
        lambda: keras.Sequential(
            [keras.Input((12,), name="numbers"), L.Dense(24, activation="relu"), L.LayerNormalization(), L.Dense(4)]
        ),
    ),
    Subject("keras-lstm", RECURRENT, _series(lambda: L.LSTM(9, return_sequences=True), lambda: L.Dense(3))),
    Subject("keras-bidirectional_gru", RECURRENT, _series(lambda: L.Bidirectional(L.GRU(9)), lambda: L.Dense(3))),
    Subject("keras-masked_lstm", MASKED, _tokens(lambda: L.LSTM(9, return_sequences=True), lambda: L.Dense(3)), True),
    Subject("keras-masked_gru", MASKED, _series(lambda: L.Masking(0.0), lambda: L.GRU(9), lambda: L.Dense(3)), True),
    Subject("keras-masked_simple_rnn", MASKED, _tokens(lambda: L.SimpleRNN(9), lambda: L.Dense(3)), True),
)


def _keras(subject: Subject) -> Any:
    """Build a Keras model. Variances stay positive, and weights small enough for many layers."""
    keras.utils.set_random_seed(0)
    model = randomise(subject.build(), spread=0.1)
    for variable in model.weights:
        if "variance" in variable.path:
            variable.assign(np.random.default_rng(1).uniform(0.5, 2.0, variable.shape))
    return model


def subjects() -> Iterator[Subject]:
    """Yield all models of the matrix."""
    for family, variant in VARIANTS:
        kind = FAMILIES.get(family, family)
        yield Subject(f"{family}-{variant}", kind, lambda family=family, variant=variant: tiny(family, variant))
    for subject in KERAS:
        yield Subject(subject.name, subject.kind, lambda subject=subject: _keras(subject), subject.padded)


# ---- cases -----------------------------------------------------------------------------------------------------------


def make(folder: Path, forms: tuple[str, ...] = FORMS, only: str = "", report: Callable[[str], None] = print) -> None:
    """Make the cases that are not in `folder` yet. The reason for one that cannot be exported is stored in its place.

    Args:
        folder: the folder of the cases.
        forms: which of ``FORMS`` to make.
        only: the beginning of the names of models.
        report: is called with a line for each model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for subject in subjects():
        missing = [form for form in forms if not (folder / f"{subject.name}.{form}.done").is_file()]
        if not missing or not subject.name.startswith(only):
            continue
        keras.utils.clear_session()
        model, said = subject.build(), []
        for form in missing:
            try:
                made = _export(subject, model, form, folder)
                (folder / f"{subject.name}.{form}.done").write_text("".join(f"{name}\n" for name in made))
                said.append(f"{form}: {len(made)}")
            except Exception as error:  # whatever the exporter raises belongs into the table
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
                case = folder / f"{subject.name}.{form}"
                case.mkdir(exist_ok=True)
                (case / "refused.txt").write_text(f"{reason}\n")
                about = About(case.name, subject.kind, form, 0, {}, [])
                (case / "refused.json").write_text(json.dumps(asdict(about)))
                (folder / f"{subject.name}.{form}.done").write_text("")
                said.append(f"{form}: {reason:.80}")
        report(f"{subject.name:32} {', '.join(said)}")


def _export(subject: Subject, model: Any, form: str, folder: Path) -> list[str]:
    """Export a model in one form, and write a case for each of its graphs. Return the names of the cases."""
    view = exportable(model)
    options: dict[str, Any] = {"opset": int(form)} if form.isdigit() else {}
    if form == "int8":
        options = {"precision": "int8", "least_cosine": 0}
    elif form in ("static", "rknn"):
        open_sizes = {dim for spec in view.signature.inputs for dim in spec.dims if isinstance(dim, str)}
        known = {**view.signature.examples, **view.signature.defaults, **STATIC}
        options = {"opset": 17, "static_shapes": {dim: known.get(dim, 16) for dim in sorted(open_sizes)}}
        options |= {"cache": False} if model is view else {}
        options |= {"target": "rknn"} if form == "rknn" else {}
    made = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        path = Path(temporary) / "model.onnx"
        export.to_onnx(model, path, **options)
        runner: Any = export.load(path, threads=1)
        graphs = model_graphs(view, runner.graphs)
        for role, loaded in runner.graphs.items():
            several = len(runner.graphs) > 1
            name = f"{subject.name}.{role}.{form}" if several else f"{subject.name}.{form}"
            kind = f"{subject.kind} {role}" if several else subject.kind
            kind += ", cache" if subject.kind == "GPT" and loaded.signature.state else ""
            file = path if role == runner.layout.main or not several else path.with_name(f"model.{role}.onnx")
            reference = Reference(view, graphs[role].function)
            about = _about(name, kind, form, file)
            made.append(name)
            _write(folder / name, file, about, loaded, reference, subject)
    return made


def _about(name: str, kind: str, form: str, file: Path) -> About:
    import onnx

    proto = onnx.load(file, load_external_data=False)
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    constants = {initializer.name for initializer in proto.graph.initializer}  # inputs that have a default
    inputs = {}
    for value in proto.graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
            inputs[value.name] = (dtype, [d.dim_param or d.dim_value for d in tensor.shape.dim])
    return About(name, kind, form, opset, inputs, [value.name for value in proto.graph.output])


def _write(folder: Path, file: Path, about: About, loaded: LoadedGraph, reference: Reference, subject: Subject) -> None:
    """Write one case, whose folder appears when it is complete."""
    signature, given, expected = loaded.signature, {}, {}
    for number, inputs in enumerate(_sets(signature, reference, subject.padded)):
        kept = {name: value for name, value in inputs.items() if name in about.inputs}
        found: Mapping[str, np.ndarray] = reference(inputs)
        if about.form == "int8":  # what rounding the weights changes is no fault of a runtime
            found = loaded.run(kept)
        for name, value in kept.items():
            given[f"{number}/{name}"] = np.asarray(value, about.inputs[name][0], order="C")
        for name in about.outputs:
            expected[f"{number}/{name}"] = found[name]
            valid = _valid(signature, name, inputs)
            if valid is not None:
                expected[f"valid/{number}/{name}"] = valid
    part = folder.with_name(f".{folder.name}.part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir()
    shutil.copy(file, part / "model.onnx")
    (part / "case.json").write_text(json.dumps(asdict(about), indent=1))
    np.savez(part / "inputs.npz", **given)
    np.savez(part / "expected.npz", **expected)
    (part / "inputs.json").write_text(json.dumps({key: _encoded(value) for key, value in given.items()}))
    part.rename(folder)


def _encoded(array: np.ndarray) -> dict[str, Any]:
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def _sets(signature: Signature, reference: Reference, padded: bool) -> Iterator[Arrays]:
    """Yield sets of inputs for one graph: batches, lengths and paddings; then a step after those that fill a cache."""
    dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    fixed = signature.sizes
    if "height" in dims:
        for sizes in image_cases(signature):
            yield example_inputs(signature, {**signature.defaults, **sizes}, seed=sizes["batch"])
        return
    masked = padded or any(map(is_mask, signature.inputs))
    lengths = {dim for dim in dims if dim in TEXT or dim.endswith("sequence")} - {"past_sequence", "total_sequence"}
    batches = BATCHES if not fixed else tuple((1, 16, padding) for padding in ("none", "right", "left"))
    for rows, length, padding in batches:
        if padding != "none" and not masked:
            continue
        sizes = {**signature.examples, **signature.defaults, "batch": rows, "past_sequence": 0}
        sizes = {**sizes, **dict.fromkeys(lengths, length), **fixed}
        inputs = example_inputs(signature, sizes, padding=padding, seed=length)
        if padded:
            inputs = {name: _padded(value, padding) for name, value in inputs.items()}
        yield inputs
        if signature.state and not fixed and length > 1:
            yield _next(signature, sizes, inputs, reference(inputs))


def _padded(values: np.ndarray, padding: str) -> np.ndarray:
    """Return the rows with zeros as padding, and without zeros elsewhere."""
    mask = padded_mask(values.shape[0], values.shape[1], padding)
    if values.dtype.kind in "iu":
        values = np.maximum(values, 1)
    kept = mask.reshape(*mask.shape, *[1] * (values.ndim - 2)).astype(bool)
    return np.where(kept, values, np.zeros((), values.dtype))  # not -0.0, which MNN tells from 0.0


def _next(signature: Signature, sizes: Mapping[str, int], inputs: Arrays, outputs: Mapping[str, np.ndarray]) -> Arrays:
    """Return the inputs of a step of one token after a call that filled the cache."""
    state = {old: outputs[new] for old, new in signature.state.items()}
    past = next((v.shape[2] for n, v in state.items() if "past_sequence" in _dims(signature, n)), 0)
    steps = {dim: 1 for dim in ("sequence", "target") if dim in sizes}
    step = example_inputs(signature, {**sizes, **steps, "past_sequence": past}, seed=99)
    for name, value in inputs.items():
        if name in step and step[name].shape == value.shape and not set(steps) & set(_dims(signature, name)):
            step[name] = value  # such as what the encoder returned, and its mask
    if "attention_mask" in inputs and "total_sequence" in _dims(signature, "attention_mask"):
        ones = np.ones((len(inputs["attention_mask"]), 1), inputs["attention_mask"].dtype)
        step["attention_mask"] = np.concatenate([inputs["attention_mask"], ones], axis=1)
    return {**step, **state}


def _dims(signature: Signature, name: str) -> tuple[Any, ...]:
    return next((spec.dims for spec in signature.inputs if spec.name == name), ())


def _valid(signature: Signature, output: str, inputs: Arrays) -> np.ndarray | None:
    """Return which tokens of an output count, in its own shape up to the axis of the tokens; None for all."""
    masks = {spec.dims[1]: inputs[spec.name] for spec in signature.inputs if is_mask(spec) and spec.name in inputs}
    if "total_sequence" in masks and "sequence" not in masks:  # a decoder, whose mask covers the cached tokens, too
        first = next(spec.name for spec in signature.inputs if "sequence" in spec.dims)
        masks["sequence"] = masks["total_sequence"][:, -inputs[first].shape[1] :]
    dims: tuple[Any, ...] = next((spec.dims for spec in signature.outputs if spec.name == output), ())
    axis = next(
        (i for i, dim in enumerate(dims) if dim in masks and dim in ("sequence", "source", "total_sequence")), 0
    )
    if not axis or dims[0] != "batch":
        return None
    mask = masks[dims[axis]]
    return mask.reshape(len(mask), *[1] * (axis - 1), mask.shape[1]).astype(bool)
