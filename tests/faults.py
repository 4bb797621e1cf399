"""Faults that are planted in a file, or in an exporter whose own check is disabled. ``verify`` must find each of them.

    python tests/faults.py      # prints the table of docs/verification.md, in about two minutes

A fault of an exporter is planted while a correct model is exported. Afterwards, the metadata of the file is that of a
correct file, so that the fault can only be found by the outputs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import keras
import numpy as np
import onnx

from attention_zoo import export
from attention_zoo.export import digests
from attention_zoo.export.onnx import exporter as onnx_exporter
from attention_zoo.export.onnx.primitives import table as onnx_table
from attention_zoo.export.tflite import exporter as tflite_exporter
from attention_zoo.export.tflite import operators as tflite_export
from attention_zoo.layers import functional as F
from attention_zoo.runtime.metadata import DIGEST
from helpers import tiny

FORMATS = ("onnx", "tflite")
Change = Callable[[Any, Path], None]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        model: returns a new model.
        exporting: returns a context manager, for a model, in which the export has the fault; None for a correct export.
        changing: changes the exported file of a model; None for no change.
        cache: whether the file has a key/value cache.
        formats: the formats in which the fault is possible.
    """

    model: Callable[[], Any]
    exporting: Callable[[Any], Any] | None = None
    changing: Change | None = None
    cache: bool = False
    formats: tuple[str, ...] = FORMATS


# ---- faults of files ----------------------------------------------------------------------------------------------


def metadata_of(file: Path) -> dict[str, str]:
    return dict(export.load(file).metadata)


def rewrite(
    file: Path, change: Callable[[dict[str, str]], None], arrays: Callable[[str, np.ndarray], Any] | None = None
) -> None:
    """Change a file's metadata and weights, and update its digest.

    Args:
        file: an ONNX or TFLite file.
        change: changes the metadata entries in place.
        arrays: returns the new values of a weight, given its name ("" in TFLite) and values, or None for no change.
    """
    if file.suffix == ".onnx":
        proto = onnx.load(str(file))
        entries = {entry.key: entry.value for entry in proto.metadata_props}
        change(entries)
        entries[DIGEST] = digests.UNSEALED
        onnx.helper.set_model_props(proto, entries)
        for tensor in proto.graph.initializer if arrays else ():
            new = arrays(tensor.name, onnx.numpy_helper.to_array(tensor))
            if new is not None:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(new), tensor.name))
        file.write_bytes(proto.SerializeToString())
    else:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file.read_bytes(), 0))
        entry = next(entry for entry in model.metadata if entry.name in (b"attention_zoo", "attention_zoo"))
        entries = json.loads(bytes(model.buffers[entry.buffer].data))
        change(entries)
        entries[DIGEST] = digests.UNSEALED
        model.buffers[entry.buffer].data = np.frombuffer(json.dumps(entries).encode(), np.uint8)
        for buffer in model.buffers if arrays else ():
            if buffer.data is not None and len(buffer.data) % 4 == 0 and len(buffer.data):
                new = arrays("", np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), "float32"))
                if new is not None:
                    buffer.data = np.frombuffer(np.ascontiguousarray(new).tobytes(), np.uint8)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        file.write_bytes(bytes(builder.Output()))
    digests.seal(file)


def bytes_of_ones(model: Any, file: Path) -> None:
    content = bytearray(file.read_bytes())
    weight = keras.ops.convert_to_numpy(largest(model)).tobytes()[:64]
    at = content.find(weight)
    assert at >= 0
    content[at : at + 64] = b"\xff" * 64
    file.write_bytes(content)


def one_byte(model: Any, file: Path) -> None:
    """Change the lowest bit of one weight, which has no visible effect on the outputs."""
    content = bytearray(file.read_bytes())
    at = content.find(keras.ops.convert_to_numpy(largest(model)).tobytes()[:64])
    content[at] ^= 1
    file.write_bytes(content)


def half_a_file(model: Any, file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def largest(model: Any) -> Any:
    return max((w for w in model.weights if len(w.shape) == 2), key=lambda w: np.prod(w.shape))


def weight(model: Any, name: str) -> np.ndarray:
    return next(keras.ops.convert_to_numpy(w) for w in model.weights if w.path.partition("/")[2] == name)


def changed_weights(*changes: tuple[str, Callable[[np.ndarray, Any], np.ndarray]]) -> Change:
    """Return a change of weights, by Keras name. In TFLite, they are found by their values, as such or transposed."""

    def change(model: Any, file: Path) -> None:
        done = set()

        def new(name: str, array: np.ndarray) -> Any:
            for ours, to in changes:
                original = weight(model, ours)
                if name == ours:
                    done.add(ours)
                    return to(original, model).astype("float32")
                for turned in (original, original.T) if not name else ():
                    if array.size == original.size and np.array_equal(array, turned.reshape(-1)):
                        done.add(ours)
                        found = to(original, model).astype("float32")
                        return (found if turned is original else found.T).reshape(-1)
            return None

        rewrite(file, lambda _: None, new)
        assert done == {name for name, _ in changes}, done

    return change


def metadata(key: str, value: Any) -> Change:
    def change(model: Any, file: Path) -> None:
        def entries(found: dict[str, str]) -> None:
            config = json.loads(found["attention_zoo.config"])
            config[key] = value
            found["attention_zoo.config"] = json.dumps(config)

        rewrite(file, entries)

    return change


def anothers_encoder(model: Any, file: Path) -> None:
    other = tiny("transformer", "original", seed=9)
    export.to_onnx(other, file.with_name("other.onnx"))
    file.with_name("other.encoder.onnx").replace(file.with_name(f"{file.stem}.encoder.onnx"))


# ---- faults of exporters ------------------------------------------------------------------------------------------


def lowered(name: str, wrap: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Replace the lowering of a primitive in both exporters. Keras itself is not changed."""

    @contextmanager
    def exporting(_: Any) -> Iterator[None]:
        forms: Any = onnx_table.FORMS
        with mock.patch.dict(forms), mock.patch.dict(tflite_export.LOWERINGS):
            known = forms.get(name, {17: ("", F.PRIMITIVES[name])})
            forms[name] = {opset: (operator, wrap(form)) for opset, (operator, form) in known.items()}
            tflite_export.LOWERINGS[name] = wrap(tflite_export.LOWERINGS.get(name, F.PRIMITIVES[name]))
            yield

    return exporting


def attribute(path: str, value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Change an attribute of the model, such as ``config.sliding_window``, during the export."""

    @contextmanager
    def exporting(model: Any) -> Iterator[None]:
        *owners, name = path.split(".")
        owner = model
        for part in owners:
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        before = getattr(owner, name)
        object.__setattr__(owner, name, value(before))
        try:
            yield
        finally:
            object.__setattr__(owner, name, before)

    return exporting


def without(*names: str) -> Callable[[Any], Any]:
    """Leave out keyword arguments of the attention."""
    return lowered(
        "dot_product_attention",
        lambda plain: lambda *args, **kwargs: plain(*args, **{**kwargs, **dict.fromkeys(names)}),
    )


def other_heads(plain: Any) -> Any:
    """Assign key heads to query heads in turn, although each key head belongs to a group of neighboring query heads."""

    def attention(query: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        repeat = [keras.ops.concatenate([part] * groups, axis=1) for part in (key, value)]
        return plain(query, *repeat, **kwargs)

    return attention


def swapped(plain: Any) -> Any:
    return lambda query, key, value, **kwargs: plain(key, query, value, **kwargs)


def long_gpt(**fields: Any) -> Callable[[], Any]:
    return lambda: tiny("gpt", "llama", max_length=80, **fields)


def fresh_classifier() -> Any:
    """Return an untrained classifier, whose logits are below 0.04."""
    from attention_zoo.zoo.bert import BERT

    small = {"vocab_size": 89, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 40}
    return BERT(head="sequence_classification", num_classes=3, **small)


class SoftCap:
    """A GPT whose overridden ``call`` caps the logits."""

    def __new__(cls) -> Any:
        from attention_zoo.zoo.gpt import GPT
        from helpers import randomise

        class Capped(GPT):
            def call(self, *args: Any, **kwargs: Any) -> Any:
                return 3.0 * keras.ops.tanh(super().call(*args, **kwargs) / 3.0)

        return randomise(Capped(GPT.config_class.from_dict(GPT.tiny()["llama"])))


def bert() -> Any:
    return tiny("bert", "backbone")


def scaled(factor: float) -> Callable[[np.ndarray, Any], np.ndarray]:
    return lambda array, _: array * factor


QUERY, KEY = "block_0/attention/query/kernel", "block_0/attention/key/kernel"
FAULTS: dict[str, Fault] = {
    "64 bytes are 0xFF": Fault(bert, changing=bytes_of_ones),
    "one bit of a weight": Fault(bert, changing=one_byte),
    "half of the file is missing": Fault(bert, changing=half_a_file),
    "a kernel × 1.01": Fault(bert, changing=changed_weights(("block_0/attention/output/kernel", scaled(1.01)))),
    "rows of the token table moved by one": Fault(
        bert, changing=changed_weights(("embedding/embeddings", lambda array, _: np.roll(array, 1, 0)))
    ),
    "positions from 40 on are zero": Fault(
        lambda: tiny("gpt", "gpt2", max_length=80),
        changing=changed_weights(("positions/embeddings", lambda array, _: array * (np.arange(80) < 40)[:, None])),
    ),
    "query and key swapped, logits below 0.04": Fault(  # in TFLite, the query kernel includes the scale
        fresh_classifier,
        changing=changed_weights((QUERY, lambda _, m: weight(m, KEY)), (KEY, lambda _, m: weight(m, QUERY))),
        formats=("onnx",),
    ),
    "another eos_token_id in the metadata": Fault(
        lambda: tiny("gpt", "llama", eos_token_id=5), changing=metadata("eos_token_id", 6), cache=True
    ),
    "another model's encoder beside the decoder": Fault(
        lambda: tiny("transformer", "original"), changing=anothers_encoder, cache=True, formats=("onnx",)
    ),
    "query and key swapped in the graph": Fault(fresh_classifier, exporting=lowered("dot_product_attention", swapped)),
    "no sliding window": Fault(
        long_gpt(sliding_window=50), exporting=attribute("config.sliding_window", lambda _: None)
    ),
    "no sliding window, with a cache": Fault(
        long_gpt(sliding_window=50), exporting=attribute("config.sliding_window", lambda _: None), cache=True
    ),
    "a window one token too wide": Fault(
        long_gpt(sliding_window=50), exporting=attribute("config.sliding_window", lambda n: n + 1), cache=True
    ),
    "other buckets of relative positions": Fault(
        lambda: tiny("transformer", "t5", max_length=80, max_distance=60),
        exporting=attribute("encoder_positions.max_distance", lambda n: n + 4),
    ),
    "the padding mask is ignored": Fault(bert, exporting=without("mask")),
    "a position bias is forgotten": Fault(lambda: tiny("gpt", "alibi"), exporting=without("bias"), cache=True),
    "an epsilon of 1e-3 for 1e-5": Fault(
        bert,
        exporting=lowered("layer_norm", lambda plain: lambda *args, epsilon: plain(*args, epsilon=1e-3)),
    ),
    "GELU by tanh for GELU by erf": Fault(
        bert,
        exporting=lowered("gelu", lambda plain: lambda x, approximate=False: plain(x, approximate=not approximate)),
    ),
    "a bias is left out": Fault(
        bert,
        exporting=lowered("dense", lambda plain: lambda x, kernel, bias=None, **kwargs: plain(x, kernel, **kwargs)),
    ),
    "rotary features paired in the other way": Fault(
        long_gpt(),
        exporting=lowered(
            "rotary", lambda plain: lambda *args, interleaved=False: plain(*args, interleaved=not interleaved)
        ),
        cache=True,
    ),
    "positions rotated backwards": Fault(
        long_gpt(),
        exporting=lowered("rotary", lambda plain: lambda x, cos, sin, **kwargs: plain(x, cos, -sin, **kwargs)),
    ),
    "key heads dealt out wrongly": Fault(
        long_gpt(), exporting=lowered("dot_product_attention", other_heads), cache=True
    ),
    "the scale of the attention is 2 % off": Fault(
        bert,
        exporting=lowered(
            "dot_product_attention", lambda plain: lambda q, *args, **kwargs: plain(q * 1.02, *args, **kwargs)
        ),
    ),
    "a cache slot is written one too early": Fault(
        long_gpt(),
        exporting=lowered(
            "cache_update",
            lambda plain: lambda cache, new, index: plain(cache, new, keras.ops.maximum(index - 1, 0)),
        ),
        cache=True,
        formats=("tflite",),
    ),
    "blocks in another order": Fault(
        long_gpt(), exporting=attribute("blocks", lambda blocks: blocks[::-1]), cache=True
    ),
    "an overridden call is not in the cached graph": Fault(SoftCap, cache=True),
}


# ---- planting a fault ---------------------------------------------------------------------------------------------


def planted(fault: Fault, format: str, folder: Path) -> tuple[Any, Path]:
    """Return the correct model, and the path of the file with the fault."""
    model, file = fault.model(), folder / f"m.{format}"
    to: Any = export.to_onnx if format == "onnx" else export.to_tflite
    options: dict[str, Any] = {"cache": fault.cache}
    if format == "tflite" and "height" not in model.signature.limits and not fault.cache:
        options["sequence_length"] = model.config.max_length
    sound = json.dumps(model.config.to_dict())
    exporter = onnx_exporter if format == "onnx" else tflite_exporter
    with mock.patch.object(exporter, "quick_check", lambda *_: 0.0):
        if fault.exporting is None:
            to(model, file, **options)
        else:
            with fault.exporting(model):
                to(model, file, **options)
            rewrite(file, lambda entries: entries.update({"attention_zoo.config": sound}))
    if fault.changing is not None:
        fault.changing(model, file)
    return model, file


def caught_by(fault: Fault, format: str, folder: Path) -> list[str]:
    """Return the names of the checks that fail, or "load" if the file cannot be loaded."""
    model, file = planted(fault, format, folder)
    try:
        report = export.verify(model, file)
    except ValueError:
        return ["load"]
    return [check.name for check in report.checks if not check.passed]


def kind(names: list[str]) -> str:
    """Return a table cell: the failed checks of contents by name, and the number of failed comparisons of outputs."""
    named = [name for name in names if name in ("load", "bytes", "config", "weights", "names and dimensions")]
    results = len(names) - len(named)
    return ", ".join([*named, *([f"{results} of results"] if results else [])]) or "**not caught**"


if __name__ == "__main__":
    print("| fault | ONNX | TFLite |\n|---|---|---|")
    for name, fault in FAULTS.items():
        cells = []
        for format in FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(kind(caught_by(fault, format, Path(folder))) if format in fault.formats else "")
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)
