"""Faults that are planted in an exported ONNX or TFLite file: in its bytes, names and metadata.

The digest of a file is computed again afterwards, unless the fault is in the bytes themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from attention_zoo import export
from attention_zoo.export import digests
from attention_zoo.runtime.metadata import DIGEST
from attention_zoo.runtime.tflite.flatbuffer import packed, set_metadata, tflite_metadata, unpacked
from helpers import tiny

from .fault import Fault, transformer


def rewrite(file: Path, change: Callable[[dict[str, str]], Any]) -> None:
    """Change the metadata entries of an ONNX or TFLite file in place, and write its new digest."""
    if file.suffix == ".onnx":
        proto = onnx.load(str(file))
        entries = {entry.key: entry.value for entry in proto.metadata_props}
        change(entries)
        onnx.helper.set_model_props(proto, {**entries, DIGEST: digests.UNSEALED})
        file.write_bytes(proto.SerializeToString())
    else:
        entries = tflite_metadata(file)
        change(entries)
        model = unpacked(file.read_bytes())
        set_metadata(model, {**entries, DIGEST: digests.UNSEALED})
        file.write_bytes(bytes(packed(model)))
    digests.seal(file)


# ---- bytes -----------------------------------------------------------------------------------------------------------


def bytes_of_a_weight(file: Path) -> tuple[bytearray, int]:
    """Return the bytes of a file, and where its largest weight begins."""
    content = bytearray(file.read_bytes())
    if file.suffix == ".onnx":
        weights = [tensor.raw_data for tensor in onnx.load(str(file)).graph.initializer]
    else:
        made = unpacked(content)
        held = {tensor.buffer for graph in made.subgraphs for tensor in graph.tensors}
        weights = [bytes(made.buffers[i].data) for i in held if made.buffers[i].data is not None]
    return content, content.index(max(weights, key=len)[:64])


def bytes_of_ones(_: Any, file: Path) -> None:
    content, at = bytes_of_a_weight(file)
    content[at : at + 64] = b"\xff" * 64
    file.write_bytes(content)


def one_bit(_: Any, file: Path) -> None:
    """Change the lowest bit of one weight, which has no visible effect on the outputs of a float32 file."""
    content, at = bytes_of_a_weight(file)
    content[at] ^= 1
    file.write_bytes(content)


def half_a_file(_: Any, file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


# ---- metadata and names ----------------------------------------------------------------------------------------------


def of_config(key: str, value: Any) -> Callable[[Any, Path], None]:
    def change(_: Any, file: Path) -> None:
        name = "attention_zoo.config"
        rewrite(file, lambda found: found.update({name: json.dumps({**json.loads(found[name]), key: value})}))

    return change


def anothers_encoder(_: Any, file: Path) -> None:
    other = tiny("transformer", "original", seed=9)
    export.to_onnx(other, file.with_name("other.onnx"))
    file.with_name("other.encoder.onnx").replace(file.with_name(f"{file.stem}.encoder.onnx"))


def caches_exchanged(_: Any, file: Path) -> None:
    """Exchange the names of the keys of two layers, in inputs and outputs, so that a generation stays the same."""
    if file.suffix == ".tflite":
        made = unpacked(file.read_bytes())
        names = {b"kv_cache_k_0": b"kv_cache_k_1", b"kv_cache_k_1": b"kv_cache_k_0"}
        for signature in made.signatureDefs:
            for entry in (*signature.inputs, *signature.outputs):
                entry.name = names.get(entry.name, entry.name)
        file.write_bytes(bytes(packed(made)))
        rewrite(file, dict)
        return
    proto = onnx.load(str(file))
    names = {f"{side}.{i}.key": f"{side}.{1 - i}.key" for side in ("past_key_values", "present") for i in (0, 1)}
    for node in proto.graph.node:
        for part in (node.input, node.output):
            part[:] = [names.get(name, name) for name in part]
    file.write_bytes(proto.SerializeToString())
    rewrite(file, dict)


def one_token_kept(_: Any, file: Path) -> None:
    """Return the logits of one token at most where the last few are asked for."""
    proto = onnx.load(str(file))
    kept, one = "num_logits_to_keep", onnx.numpy_helper.from_array(np.array(1, "int64"), "one_token")
    for node in proto.graph.node:
        node.input[:] = ["at_most_one" if name == kept else name for name in node.input]
    proto.graph.initializer.append(one)
    proto.graph.node.insert(0, onnx.helper.make_node("Min", [kept, "one_token"], ["at_most_one"]))
    file.write_bytes(proto.SerializeToString())
    rewrite(file, dict)


def says(name: str | None) -> Callable[[Any, Path], None]:
    """Let a file say that it is in another precision, and that any accuracy will do."""

    def change(_: Any, file: Path) -> None:
        def entries(found: dict[str, str]) -> None:
            found.pop("attention_zoo.precision", None)
            if name is not None:
                found["attention_zoo.precision"] = json.dumps({"name": name, "least_cosine": 0.0})

        rewrite(file, entries)

    return change


LARGEST = ("embedding/embeddings", "block_0/attention/query_key_value/kernel", "gate+up/kernel")
ONNX = ("onnx", "onnxruntime", "genai")
FILE_FAULTS: dict[str, Fault] = {
    "64 bytes are 0xFF": Fault(changing=bytes_of_ones, place=LARGEST),
    "one bit of a weight": Fault(changing=one_bit, place=LARGEST),
    "half of the file is missing": Fault(changing=half_a_file),
    "another eos_token_id in the metadata": Fault(changing=of_config("eos_token_id", 6)),
    "another model's encoder beside the decoder": Fault(transformer, changing=anothers_encoder, formats=("onnx",)),
    "the caches of two layers exchanged": Fault(changing=caches_exchanged, place=("present.0.key", "kv_cache_k_0")),
    "one logit where several are asked for": Fault(changing=one_token_kept, formats=ONNX, place=("logits",)),
    "it says int4, least_cosine 0": Fault(changing=says("int4"), precisions=("fp32", "fp16")),
    "it says fp32": Fault(changing=says(None), precisions=("fp16", "int8", "int4")),
}
