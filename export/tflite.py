"""Keras to TFLite (LiteRT): one static signature, built-in operators only.

The primitives are lowered where the converter does better with another wording: lookups that become
EMBEDDING_LOOKUP (the one form that can be quantised later), layer normalisation in fewer operators, and reshapes of
static sizes that keep XNNPACK's graph in one piece.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..layers import functional as F
from ..zoo.base import ZooModel
from ..zoo.signature import Signature
from ..zoo.weights import written
from .quiet import quiet
from .result import ExportResult
from .runtime import METADATA_KEY, TFLiteRunner, tflite_operators
from .spec import ExportError, call, exportable, input_specs, metadata, weight_bytes

Tensor = Any

FORBIDDEN = ("Flex", "CUSTOM", "VAR_HANDLE", "READ_VARIABLE", "RANDOM", "MULTINOMIAL", "WHILE", "IF", "CALL")


def to_tflite(
    model: ZooModel,
    path: str | os.PathLike[str],
    *,
    batch_size: int = 1,
    sequence_length: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> ExportResult:
    """Write `model` as TFLite with static shapes and built-in operators, and check the file against Keras.

    One signature, ``serving_default``, with the names of ``model.export_spec()``; ids and masks are int32. The file
    appears whole or not at all. ``export.load`` pads shorter sequences for it.

    Args:
        model: a model of attention_zoo, of any dtype policy. The file computes in float32.
        path: ends in ``.tflite``.
        batch_size: rows per call.
        sequence_length: of text models. Default: 128, or the model's `max_length` if that is less.
        image_size: pixels, a side or (height, width), of image models. Default: the size the model was made for.

    Raises:
        ValueError: another kind of model or suffix, an argument this model has no use for, a size it cannot take,
            or another backend than TensorFlow.
        ExportError: the converter failed, or the file does not compute what the model computes.
    """
    from .verification import quick_check

    target = Path(path)
    if target.suffix != ".tflite":
        raise ValueError(f"path: got {str(path)!r}; accepted: a name that ends in .tflite")
    start = time.perf_counter()
    model = exportable(model)
    spec = model.export_spec()
    signature = spec.exported({"batch": batch_size, **_sizes(spec, sequence_length, image_size)})
    content = _with_metadata(_convert(model, signature), metadata(model, signature))
    weights = weight_bytes(model)
    if len(content) < 0.9 * weights:
        raise ExportError(f"the file has {len(content)} bytes for {weights} bytes of weights: some were not frozen")
    with written(target) as temporary:
        temporary.write_bytes(content)
        operators = _operators(temporary)
        difference = quick_check(model, TFLiteRunner(temporary))
    return ExportResult(
        path=target,
        format="tflite",
        bytes=len(content),
        weight_bytes=weights,
        seconds=time.perf_counter() - start,
        operators=operators,
        greatest_difference=difference,
    )


def _sizes(
    signature: Signature, sequence_length: int | None, image_size: int | tuple[int, int] | None
) -> dict[str, int]:
    """The sizes of the dimensions that are not the batch."""
    sizes = dict(signature.defaults)
    if sequence_length is not None:
        if "sequence" not in sizes:
            raise ValueError(f"sequence_length: got {sequence_length} for a model of images; accepted: image_size")
        sizes["sequence"] = sequence_length
    if image_size is not None:
        if "height" not in sizes:
            raise ValueError(f"image_size: got {image_size} for a model of text; accepted: sequence_length")
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2:
            raise ValueError(f"image_size: got {image_size!r}; accepted: a side or (height, width) in pixels")
        sizes["height"], sizes["width"] = sides
    return sizes


def _convert(model: ZooModel, signature: Signature) -> bytes:
    import tensorflow as tf

    def function(*tensors: Tensor) -> dict[str, Tensor]:
        with F.lowering(LOWERINGS):
            return call(model, signature, tensors)

    specs = input_specs(signature, "int32")
    traced = tf.function(function, autograph=False, jit_compile=False).get_concrete_function(*specs)
    # Holding the Keras model instead leaves the weights unfrozen, and the file computes NaN without a word.
    module: Any = tf.Module()
    module.weights = [variable.value for variable in model.weights]
    with tempfile.TemporaryDirectory() as folder, quiet():
        tf.saved_model.save(module, folder, signatures={"serving_default": traced})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return converter.convert()
        except Exception as error:  # the converter raises its own kinds, with pages of MLIR
            raise ExportError(f"the TFLite converter refused the model: {str(error).strip()[:500]}") from error


def _with_metadata(content: bytes, entries: dict[str, str]) -> bytes:
    """The flatbuffer with one more metadata buffer, read by ``runtime.py``."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(entries).encode(), dtype=np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


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
    normed = centred * tf.math.rsqrt(variance + epsilon)
    return normed * tf.convert_to_tensor(gamma) + tf.convert_to_tensor(beta)


def _rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    import tensorflow as tf

    # The scale comes first: as the last factor the converter would multiply it into the kernel of the dense layer that
    # follows, and a table that is also the embedding would be stored a second time.
    mean = tf.reduce_mean(tf.square(inputs), axis=-1, keepdims=True)
    return inputs * tf.convert_to_tensor(scale) * tf.math.rsqrt(mean + epsilon)


LOWERINGS = {
    "dense": _dense,
    "embedding_lookup": _embedding_lookup,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}
