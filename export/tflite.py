"""Keras to TFLite (LiteRT): static signatures, built-in operators only.

The primitives are lowered where the converter does better with another wording: lookups that become
EMBEDDING_LOOKUP (the one form that can be quantised later), layer normalisation in fewer operators, and reshapes of
static sizes that keep XNNPACK's graph in one piece.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import is_integer
from ..layers import functional as F
from ..needs import named_extras
from ..signature import Graph, Signature
from .any_keras.layers import keras_lowered
from .any_keras.model import Foreign
from .blame import one_line, refused
from .computing import FileWeights, inference, one_at_a_time, reading
from .contents import seal, unsealed
from .flatbuffer import packed, set_metadata, tflite_operators, unpacked
from .graph_names import SINGLE, STATIC, prefill_name
from .litert import litert_graph
from .precision.accuracy import measure
from .precision.options import LEAST_COSINE, Precision, accuracy_rules, as_precision
from .precision.tflite_files import check_tflite, round_file
from .quiet import quiet
from .result import ExportError, ExportResult
from .runtime import Runner
from .spec import Exportable, exportable, input_specs, metadata, texts
from .tflite_runtime import TFLiteRunner

Tensor = Any

FORBIDDEN = ("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "RANDOM", "MULTINOMIAL", "IF", "CALL")


@named_extras()
@one_at_a_time
def to_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str | Precision = "fp32",
    input_signature: Any = None,
    batch_size: int = 1,
    sequence_length: int | Mapping[str, int] | None = None,
    image_size: int | tuple[int, int] | None = None,
    prefill: int | Sequence[int] | None = None,
    max_length: int | None = None,
    cache: bool | None = None,
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
) -> ExportResult:
    """Write `model` as TFLite with static shapes and built-in operators, and check the file against Keras.

    One signature, ``serving_default``, with the names of ``model.signature``; ids and masks are int32. A GPT with
    `prefill` or `max_length` gets the signatures ``prefill_{n}`` and ``decode`` instead, whose key/value cache has
    `max_length` slots: ``tokens``, ``input_pos``, ``mask``, ``kv_cache_k_{i}``, ``kv_cache_v_{i}``. A Transformer or
    Seq2Seq gets ``encode`` and ``decode``. The model's tokenizer, its chat template and what ends a text are in the
    file too, which appears whole or not at all. ``export.load`` pads shorter sequences for it, and generates.

    In another precision than float32 the file is made from the one in float32, which is compared with Keras first; what
    the smaller numbers cost is measured, written into the result, and too much of it refused. Only weights become
    smaller: inputs, outputs and caches stay float32.

    Args:
        model: a model of attention_zoo, of any dtype policy.
        path: ends in ``.tflite``.
        precision: "fp32"; "fp16"; "int8", a scale for each output and activations as 8-bit integers with a range for
            each row; "int4", blocks of 32 (or `block_size`) weights, and int8 where those do not fill a row, for value
            projections, head and token table; or an ``export.Precision`` that says more.
        batch_size: rows per call.
        sequence_length: of text models; of the source where there is an encoder. Default: 128 (a Seq2Seq's: 64), or
            the model's `max_length` if that is less.
        image_size: pixels, a side or (height, width), of image models. Default: the size the model was made for.
        prefill: of a GPT with a cache, how many tokens of a prompt are taken at once; several for several signatures.
            Default: 32 and 128, as far as they fit.
        max_length: slots of the cache: longest prompt and continuation together, or longest target. Default: the
            model's `max_length`, 512 at the most.
        cache: False for one signature without memory of a model that generates, True for a GPT with its cache.
        samples: what the accuracy of another precision is measured on: texts, or inputs by name, or several of either.
            Default: built-in prose for a model with a tokenizer, else made-up inputs.
        metric: a figure of your own for the report: called with a runner in float32 and with the one in `precision`.
        least_cosine: accept a file whose outputs have this cosine with those in float32; 0 for whatever comes.
            Default: 0.999 in fp16, 0.97 in int8, 0.9 in int4, and of classes a divergence of 0.01, 0.2 and 0.6 nats.

    Raises:
        ValueError: another kind of model or suffix, an argument this model has no use for, a size it cannot take,
            a precision or samples that are not accepted, a tokenizer that does not fit the model, or another backend
            than TensorFlow.
        ExportError: the converter failed, or the file does not compute what the model computes, or not nearly enough
            in `precision`.
    """
    from .verification import quick_check

    target = Path(path)
    if target.suffix != ".tflite":
        raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in .tflite")
    start = time.perf_counter()
    numbers = as_precision(precision)
    check_tflite(numbers)
    rules = accuracy_rules(numbers, samples=samples, metric=metric, least_cosine=least_cosine)
    model = exportable(model, input_signature)
    own = texts(model)
    memory = _memory(model, prefill, max_length, cache)
    if memory is None:
        graphs = model.graphs("plain")
        graphs = graphs if len(graphs) > 1 else {SINGLE: graphs["model"]}
        every = {}
        for name, graph in graphs.items():
            spec = graph.signature
            batch = {"batch": batch_size} if any("batch" in given.dims for given in spec.inputs) else {}
            every[name] = spec.exported({**batch, **_sizes(spec, sequence_length, image_size)})
    else:
        graphs, every = _with_memory(model, batch_size, sequence_length, image_size, *memory)
    functions = {name: Graph(every[name], graph.function) for name, graph in graphs.items()}
    with inference(model) as stored:
        entries = {**metadata(model, every, {}), **own, **unsealed(stored)}
        converted = unpacked(_convert(stored, functions))
        set_metadata(converted, entries)
        content = packed(converted)
        del converted
    share, accuracy = 0.0, None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        made = precise = _opened(content, Path(folder) / "fp32.tflite")
        difference = quick_check(model, precise)
        if numbers.name != "fp32":
            least = LEAST_COSINE[numbers.name] if least_cosine is None else rules["least_cosine"]
            content, share = round_file(content, precise.metadata, stored, numbers, least)
            made = _opened(content, Path(folder) / f"{numbers.name}.tflite")
            accuracy = measure(precise, made, numbers.name, **rules)
        operators = _operators(made.path)
        made.path.replace(target)
    return ExportResult(
        path=target,
        format="tflite",
        bytes=len(content),
        weight_bytes=stored.bytes,
        seconds=time.perf_counter() - start,
        operators=operators,
        greatest_difference=difference,
        files=(target,),
        precision=numbers.name,
        rounded=share,
        accuracy=accuracy,
    )


def _memory(
    model: Exportable, prefill: int | Sequence[int] | None, max_length: int | None, cache: bool | None
) -> tuple[list[int], int] | None:
    """Lengths of the prefills and slots of the cache; None for a file without memory."""
    given = {"prefill": prefill, "max_length": max_length, "cache": cache or None}
    asked = [name for name, value in given.items() if value is not None]
    if asked and not model.generates:
        raise ValueError(f"{asked[0]}: got {given[asked[0]]!r} for a {model.family} that does not generate")
    encodes = model.generates and "encoder" in model.graphs("static")
    if encodes and prefill is not None:
        raise ValueError(f"prefill: got {prefill!r} for a {model.family}, whose prompt is encoded; accepted: None")
    if cache is False and asked:
        raise ValueError(f"{asked[0]}: got {given[asked[0]]!r} with cache=False; accepted: None")
    if cache is False or not (asked or encodes):
        return None
    longest = model.config.max_length
    slots = min(longest, 512) if max_length is None else max_length
    if not is_integer(slots) or not 1 <= slots <= longest:
        raise ValueError(f"max_length: got {max_length!r}; accepted: an integer from 1 to {longest}")
    lengths = [n for n in (32, 128) if n <= slots] if prefill is None else list(np.atleast_1d(prefill).tolist())
    if bad := [n for n in lengths if not is_integer(n) or not 1 <= n <= slots]:
        raise ValueError(f"prefill: got {bad}; accepted: integers from 1 to max_length={slots}")
    return sorted(set(lengths)), int(slots)


def _with_memory(
    model: Exportable, batch_size: int, sequence_length: Any, image_size: Any, lengths: list[int], slots: int
) -> tuple[dict[str, Graph], dict[str, Signature]]:
    """The graphs of a file that generates, and their signatures with every size filled in."""
    graphs = model.graphs("static")
    if "encoder" in graphs:
        source = _sizes(graphs["encoder"].signature, None, image_size)["source"]
        sizes = {"batch": batch_size, "source": source if sequence_length is None else sequence_length}
        named = {name: graphs[role] for name, role in STATIC.items()}
        fixed = {"encode": sizes, "decode": {**sizes, "slots": slots, "sequence": 1}}
    else:
        if batch_size != 1 or sequence_length is not None:
            raise ValueError("batch_size, sequence_length: got one for a file with a cache; accepted: 1 and None")
        graph, prefill = litert_graph(model), {prefill_name(n): n for n in lengths}
        named = {"decode": graph, **dict.fromkeys(prefill, _without_logits(graph))}
        common = {"batch": 1, "slots": slots}
        fixed = {name: {**common, "sequence": prefill.get(name, 1)} for name in named}
    signatures = {}
    for name, graph in named.items():
        dims = {dim for spec in graph.signature.inputs for dim in spec.dims}
        signatures[name] = graph.signature.exported({dim: n for dim, n in fixed[name].items() if dim in dims})
    return named, signatures


def _without_logits(graph: Graph) -> Graph:
    """As LiteRT-LM has it: a prompt only fills the cache."""
    outputs = tuple(spec for spec in graph.signature.outputs if spec.name != "logits")

    def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in graph.function(inputs).items() if name != "logits"}

    return Graph(replace(graph.signature, outputs=outputs), function)


def _sizes(
    signature: Signature, sequence_length: int | Mapping[str, int] | None, image_size: int | tuple[int, int] | None
) -> dict[str, int]:
    """The sizes of the dimensions that are not the batch.

    Raises:
        ValueError: a size for what this model does not have, or none for what it leaves open.
    """
    sizes = dict(signature.defaults)
    open_dims = {dim: spec.name for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    kind = "of images" if "height" in open_dims else "of text" if "sequence" in open_dims else "of fixed sizes"
    if sequence_length is not None:
        texts = [dim for dim in open_dims if dim in ("sequence", "source", "target") or dim.endswith("_sequence")]
        given = sequence_length if isinstance(sequence_length, Mapping) else dict.fromkeys(texts, sequence_length)
        if not texts:
            raise ValueError(f"sequence_length: got {sequence_length} for a model {kind}; accepted: None")
        if unknown := sorted({*given} - {*texts}):
            raise ValueError(f"sequence_length: got {unknown}; accepted: an integer, or one each for {texts}")
        sizes.update(given)
    if image_size is not None:
        if "height" not in open_dims and "width" not in open_dims:
            raise ValueError(f"image_size: got {image_size} for a model {kind}; accepted: None")
        sides = (image_size, image_size) if is_integer(image_size) else tuple(np.atleast_1d(image_size).tolist())
        if len(sides) != 2:
            raise ValueError(f"image_size: got {image_size!r}; accepted: a side or (height, width) in pixels")
        sizes.update({dim: side for dim, side in zip(("height", "width"), sides, strict=True) if dim in open_dims})
    for dim, name in open_dims.items():
        if dim != "batch" and dim not in sizes:
            argument = "image_size" if dim in ("height", "width") else "sequence_length"
            if not dim.endswith("sequence") and argument == "sequence_length":
                argument = "input_signature"
            raise ValueError(
                f"{argument}: got none for {dim!r} of {name}, which is open; accepted: its size in the file"
            )
    return sizes


def _convert(stored: FileWeights, graphs: Mapping[str, Graph]) -> bytes:
    """One file with every graph as a signature."""
    import tensorflow as tf

    changed = {name: tf.Variable(tf.constant(stored.value(name)), trainable=False) for name in stored.changed}
    with reading(changed, stored) if changed else nullcontext():
        traced = {name: _traced(stored.model, graph) for name, graph in graphs.items()}
    # Holding the Keras model instead leaves the weights unfrozen, and the file computes NaN without a word.
    module: Any = tf.Module()
    values = {n: v if isinstance(v, tf.Variable) else v.value for n, v in stored.variables.items()}
    module.weights = [changed.get(name, value) for name, value in values.items()]
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            tf.saved_model.save(module, folder, signatures=traced)
        except AssertionError as error:  # of a variable that is not the module's
            raise ExportError(f"the model reads what is no weight of it: {one_line(error, 300)}") from error
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(traced))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return converter.convert()
        except Exception as error:  # the converter raises its own kinds, with pages of MLIR
            raise ExportError(refused(error, [function.graph for function in traced.values()])) from error


def _traced(model: Exportable, graph: Graph) -> Any:
    import tensorflow as tf

    names = [spec.name for spec in graph.signature.inputs]
    ours = not isinstance(model, Foreign)

    def function(*tensors: Tensor) -> dict[str, Tensor]:
        with F.lowering(LOWERINGS), nullcontext() if ours else keras_lowered(model._flatten_layers()):
            return graph.function(dict(zip(names, tensors, strict=True)))

    specs = input_specs(graph.signature, "int32" if ours else None)
    return tf.function(function, autograph=False, jit_compile=False).get_concrete_function(*specs)


def _opened(content: bytes, file: Path) -> TFLiteRunner:
    """Write, seal and load."""
    file.write_bytes(content)
    seal(file)
    _operators(file)
    return TFLiteRunner(file)


def _operators(file: Path) -> dict[str, int]:
    counts = Counter(tflite_operators(file))
    if bad := [name for name in counts if name.startswith(FORBIDDEN)]:
        raise ExportError(f"the file holds {bad}, which LiteRT's built-in operators do not cover")
    return dict(counts.most_common())


# ---- how primitives are worded for the converter ------------------------------------------------------------------


def _dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    if transpose_kernel:  # only a product of two matrices reads the table as it is stored
        rows = tf.reshape(inputs, (-1, inputs.shape[-1]))
        output = tf.matmul(rows, kernel, transpose_b=True)
        output = tf.reshape(output, (*inputs.shape[:-1], kernel.shape[0]))
    else:
        output = tf.matmul(inputs, kernel)
    return output if bias is None else tf.add(output, tf.convert_to_tensor(bias))


def _embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    import tensorflow as tf

    def gather(value: Tensor, lookup: Tensor) -> Tensor:
        return tf.gather(value, lookup)

    # The converter knows this name, and writes EMBEDDING_LOOKUP for it.
    lookup = tf.function(gather, experimental_implements="embedding_matmul")
    table = tf.convert_to_tensor(table)
    rows = lookup(table, tf.reshape(tf.cast(ids, tf.int32), [-1]))
    return tf.reshape(rows, (*ids.shape, table.shape[-1]))


def _layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float) -> Tensor:
    import tensorflow as tf

    centred = inputs - tf.reduce_mean(inputs, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    # The gain comes first: as the last factor the converter would multiply it into the kernel of the dense layer that
    # follows, and a table that is also the embedding would be stored a second time.
    scaled = centred * tf.convert_to_tensor(gamma)
    return scaled * tf.math.rsqrt(variance + epsilon) + tf.convert_to_tensor(beta)


def _rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    import tensorflow as tf

    # The scale comes first, as the gain of `_layer_norm`.
    mean = tf.reduce_mean(tf.square(inputs), axis=-1, keepdims=True)
    return inputs * tf.convert_to_tensor(scale) * tf.math.rsqrt(mean + epsilon)


def _recurrent(layer: Any, inputs: Tensor, state: Any, mask: Tensor | None, training: Any) -> tuple[Tensor, ...]:
    """One step, or a loop over static time steps that writes each output to its place."""
    import tensorflow as tf

    if not layer.textbook:
        return F.PRIMITIVES["recurrent"](layer, inputs, state, mask, training)
    cell, width = layer.cell, layer.units
    if layer.go_backwards:
        inputs = tf.reverse(inputs, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    batch, length = inputs.shape[:2]
    recurrent = tf.convert_to_tensor(cell.recurrent_kernel)
    biases = tf.convert_to_tensor(cell.bias)
    lstm, gru = (layer.cell_kind == kind for kind in ("lstm", "gru"))
    projected = tf.matmul(inputs, tf.convert_to_tensor(cell.kernel)) + (biases[0] if gru else biases)  # (B, T, gates)

    def advance(x: Tensor, h: Tensor, *rest: Tensor) -> list[Tensor]:
        if lstm:
            i, f, c, o = tf.split(x + tf.matmul(h, recurrent), 4, axis=-1)
            new = tf.sigmoid(f) * rest[0] + tf.sigmoid(i) * tf.tanh(c)
            return [tf.sigmoid(o) * tf.tanh(new), new]
        if not gru:
            return [tf.tanh(x + tf.matmul(h, recurrent))]
        (xz, xr, xh), (z, r, n) = tf.split(x, 3, -1), tf.split(tf.matmul(h, recurrent) + biases[1], 3, -1)
        z = tf.sigmoid(xz + z)
        return [z * h + (1 - z) * tf.tanh(xh + tf.sigmoid(xr + r) * n)]

    states = list(state) if state is not None else [tf.zeros((batch, width))] * (2 if lstm else 1)
    if length == 1 and mask is None:
        states = advance(projected[:, 0], *states)
        return tf.expand_dims(states[0], 1), *states

    kept = tf.ones((batch, length)) if mask is None else tf.cast(mask, tf.float32)

    def body(t: Tensor, outputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x = tf.reshape(tf.slice(projected, [0, t, 0], [batch, 1, projected.shape[-1]]), (batch, -1))
        keep = tf.slice(kept, [0, t], [batch, 1])  # (B, 1)
        moved = [keep * new + (1 - keep) * old for new, old in zip(advance(x, *states), states, strict=True)]
        step = tf.reshape(moved[0], (batch, 1, width))
        return t + 1, _write_step(outputs, step, t), *moved

    start = (tf.constant(0), tf.zeros((batch, length, width)), *states)
    _, outputs, *last = tf.while_loop(lambda t, *_: t < length, body, start)
    return outputs, *last


def _write_step(outputs: Tensor, step: Tensor, t: Tensor) -> Tensor:
    from keras import ops

    return ops.slice_update(outputs, (0, t, 0), step)  # DYNAMIC_UPDATE_SLICE


LOWERINGS = {
    "dense": _dense,
    "embedding_lookup": _embedding_lookup,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "recurrent": _recurrent,
}
