"""``to_gguf``: write a model and its tokenizer as a GGUF file, which llama.cpp runs and ``load`` reads back."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import choice, is_integer
from ..files import written
from ..layers.rotary import rotary_frequencies
from ..needs import named_extras
from ..text.gguf_fields import gguf_fields
from ..weights.fill import collect
from ..weights.rules import Dialect
from .base import ZooModel
from .gguf_architectures import IDS, NORMALIZE, POOLINGS, ROTARY, Architecture
from .gguf_tables import ARCHITECTURES
from .registry import family, own_dialects
from .saving import changes

DTYPES = {  # and llama.cpp's number for a file of that type
    "f32": 0,
    "f16": 1,
    "bf16": 32,
    "q8_0": 7,
    "q5_1": 9,
    "q5_0": 8,
    "q4_1": 3,
    "q4_0": 2,
}
# Small tables that llama.cpp keeps in float32, and all vectors.
EXACT = ("position_embd.", "token_types.", "attn_rel_b.", *(f"{name}." for name in ROTARY))
PORTION = 2**20  # numbers that are quantized at a time


def to_gguf(model: ZooModel, file: str | os.PathLike[str], dtype: str = "f32") -> Path:
    """Write a model as a GGUF file with its tokenizer and chat templates.

    Args:
        model: a GPT (Llama, Qwen2, Qwen3, GPT-2, …), a BERT without a head or for sentence embeddings, or a T5.
            Adapters are merged. Without a tokenizer the file has none, and llama.cpp computes from ids only.
        file: the .gguf file to write. It is written under a temporary name and then renamed.
        dtype: type of the matrices: "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1" or "q4_0". Vectors are
            float32, and so are tables of positions; matrices whose rows are not made of whole blocks are float16.

    Returns:
        The path of the file.

    Raises:
        ValueError: GGUF files have no architecture with this config or head, llama.cpp has no such tokenizer, or an
            argument is not accepted. Nothing is written then.
        ModuleNotFoundError: the ``gguf`` package is not installed.
    """
    with named_extras():
        import gguf
    file = Path(file)
    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a model of attention_zoo")
    choice("dtype", dtype, tuple(DTYPES))
    if file.suffix != ".gguf" or file.is_dir():
        raise ValueError(f"file: got {file}; accepted: a name that ends in .gguf")
    if found := changes(model):
        raise ValueError(f"model: got a {model.family} that is not as its config says: {'; '.join(found[:4])}")
    plain = model.without_adapters()
    architecture, dialect, fields = _architecture(plain)
    table = plain.config.to_dict()["vocab_size"]
    if model.tokenizer is None:
        fields |= {"tokenizer.ggml.model": "none", f"{architecture.name}.vocab_size": table}
        for name, key in IDS.items():
            if is_integer(number := plain.config.to_dict().get(name)):
                fields[key] = number
    else:
        fields |= gguf_fields(model.tokenizer, table)
    rotary = {name: fields.pop(name) for name in ROTARY if name in fields}
    with written(file) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture.name)
        for key, value in {**fields, "general.file_type": DTYPES[dtype], "general.quantization_version": 2}.items():
            _add(gguf, writer, key, value)
        extra = [(f"{name}.weight", np.asarray(values, "float32")) for name, values in rotary.items()]
        kinds: dict[str, Any] = {}
        shapes = _shapes(plain, dialect)
        if _tied_outputs(plain):
            shapes["output.weight"] = shapes["token_embd.weight"]
        for name, shape in shapes.items():
            kinds[name] = _kind(gguf, name, shape, dtype)
            _announce(gguf, writer, name, shape, kinds[name])
        for name, array in extra:
            kinds[name] = gguf.GGMLQuantizationType.F32
            _announce(gguf, writer, name, array.shape, kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, array in itertools.chain(_own(plain, dialect), extra):
            writer.write_tensor_data(_encoded(gguf, array, kinds[name]))
        writer.close()
    return file


def _shapes(model: ZooModel, dialect: Dialect) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors by name, without the pooler, which llama.cpp does not have."""
    return {
        name: rule.transform.shape([tuple(variable.shape) for variable in variables])
        for name, rule, variables in dialect.plan(model)
        if not name.startswith("pooler.")
    }


def _tied_outputs(model: ZooModel) -> bool:
    """Return whether the output projection of a T5 is tied to the embedding table; T5 1.0 scales such outputs.

    A GGUF file does not state the factor, and llama.cpp has none. Therefore the table is written a second time, scaled
    as the outputs are.
    """
    config = model.config.to_dict()
    return "scale_outputs" in config and config["head"] is not None and config["tie_embeddings"]


def _own(model: ZooModel, dialect: Dialect) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of ``_shapes``, and the second table of ``_tied_outputs``."""
    table, kept, model.unused = None, model.unused, {}
    try:
        for name, array in collect(model, dialect):
            if name == "token_embd.weight" and _tied_outputs(model):
                table = array * np.float32(array.shape[1] ** -0.5 if model.config.scale_outputs else 1.0)
            if not name.startswith("pooler."):
                yield name, array
        if table is not None:
            yield "output.weight", table
    finally:
        model.unused = kept


def _architecture(model: ZooModel) -> tuple[Architecture, Dialect, dict[str, Any]]:
    """Return the architecture that represents the model's config, the dialect of its files, and their metadata.

    Raises:
        ValueError: there is none. The metadata is read back, so that nothing is lost.
    """
    known, problems = own_dialects("dialects"), []
    own = [one for one in ARCHITECTURES.values() if one.model_type == model.huggingface.get("model_type")]
    for one in own or ARCHITECTURES.values():
        name, theirs = known.get(one.model_type, ("", None))
        if theirs is None or name != model.family:
            continue
        try:
            fields = _fields(one, theirs, model)
            dialect = one.dialect(theirs)
            shapes = _shapes(model, dialect)
            read = _read_back(one, theirs, fields, shapes, model)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            problems.append(f"{one.name} ({error})")
            continue
        if not (lost := _lost(model.config, read)):
            return one, dialect, fields
        problems.append(f"{one.name} ({', '.join(lost)})")
    accepted = (
        f"accepted: a config of one of {sorted(name for name, a in ARCHITECTURES.items() if a.model_type in known)}"
    )
    why = "; ".join(problems) or "any"
    why = why if len(why) < 600 else f"{why[:600]} …"
    raise ValueError(f"model: got a {model.family} that a GGUF file cannot hold as {why}; {accepted}")


def _fields(one: Architecture, theirs: Dialect, model: ZooModel) -> dict[str, Any]:
    """Return the metadata of a model, with those tensors of `ROTARY` that its rotary frequencies need."""
    config = model.config.to_dict()
    if config.get("head") not in one.heads:
        raise ValueError(f"head: got {config.get('head')!r}; accepted: one of {list(one.heads)}")
    values: dict[str, Any] = {"general.architecture": one.name, "general.type": "model"}
    if config.get("head") == "sentence_embedding":
        numbers = {ours: number for number, ours in POOLINGS.items()}
        if (
            config["pooling"] not in numbers
            or config["projections"]
            or config["truncate_dim"]
            or not config["pool_prompt"]
        ):
            raise ValueError(f"pooling: got {config['pooling']!r}, or layers after it; accepted: {list(numbers)} alone")
        values |= {f"{one.name}.pooling_type": numbers[config["pooling"]], NORMALIZE: config["normalize"]}
    plain = type(model.config).from_dict({**config, "rope_scaling": None}) if "rope_scaling" in config else model.config
    foreign = theirs.foreign(plain)
    for entry in one.keys:
        if (value := foreign.get(entry)) is not None:
            values[f"{one.name}.{one.keys[entry]}"] = value
    if "attention.key_length" in one.keys.values():
        values[f"{one.name}.attention.value_length"] = values[f"{one.name}.attention.key_length"]
    if config.get("position") == "rotary":
        values[f"{one.name}.rope.dimension_count"] = _rotated(model.config)
        values |= _rope(one.name, model.config)
    return {**values, **one.written(foreign)}


def _rotated(config: Any) -> int:
    """Return the number of features of a head that are rotated."""
    return getattr(config, "rotary_dim", None) or config.head_dim


def _rope(arch: str, config: Any) -> dict[str, Any]:
    """Return the metadata for the scaling of the positions, with the divisors of the frequencies if it has no name."""
    scaling, size = config.rope_scaling, _rotated(config)
    if scaling is None:
        return {}
    name, kind = f"{arch}.rope.scaling.", scaling["rope_type"]
    if kind == "linear":
        return {f"{name}type": kind, f"{name}factor": float(scaling["factor"])}
    sharper = scaling.get("attention_factor") or 1.0
    if kind == "yarn" and (scaling["beta_fast"], scaling["beta_slow"]) == (32.0, 1.0):  # those of llama.cpp
        found = {f"{name}type": kind, f"{name}factor": float(scaling["factor"])}
        found[f"{name}original_context_length"] = scaling["original_max_position_embeddings"]
        usual = 0.1 * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0
        return found | ({f"{name}attn_factor": sharper / usual} if scaling.get("attention_factor") else {})
    frequencies, sharper = rotary_frequencies(size, config.rope_theta, scaling)
    if kind == "longrope" and arch == "phi3":
        found = {f"rope_factors_{part}": np.array(scaling[f"{part}_factor"], "float32") for part in ("long", "short")}
        found[f"{name}original_context_length"] = scaling["original_max_position_embeddings"]
        found[f"{arch}.context_length"] = scaling["max_position_embeddings"]
        return {**found, f"{name}attn_factor": float(sharper)}
    plain, _ = rotary_frequencies(size, config.rope_theta)
    found = {"rope_freqs": plain / frequencies}
    return found | ({} if sharper == 1.0 else {f"{name}attn_factor": float(sharper)})


def _read_back(one: Architecture, theirs: Dialect, fields: Mapping[str, Any], shapes: Any, model: ZooModel) -> Any:
    """Return the config that ``load`` reads from the metadata."""
    ids = {name: value for name, value in model.config.to_dict().items() if name.endswith("_token_id")}
    if one.name == "llama":
        raw, dialect = dict(fields), own_dialects("dialects")["gguf"][1]
    else:
        raw, dialect = one.raw(fields, shapes), one.dialect(theirs, fields)
    cls = family(model.family).config_class
    values = {**dialect.config(raw, shapes), **ids, **one.head(raw)}
    values = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
    if "head" in cls.__dataclass_fields__:
        values.setdefault("head", one.heads[0])
    return cls.from_dict({k: v for k, v in values.items() if v is not None or k == "head" or k in ids})


def _lost(config: Any, read: Any) -> list[str]:
    """Return the fields of `config` that differ in `read` and change the result, each with its value."""
    mine, theirs = config.to_dict(), read.to_dict()
    free = {*config.unused_fields(), *config.training_fields(), "pooler", "rope_scaling", "scale_outputs"}
    lost = [f"{name}={value!r}" for name, value in mine.items() if name not in free and not _same(value, theirs[name])]
    if mine.get("position") == "rotary":
        both = ((_rotated(c), c.rope_theta, c.rope_scaling) for c in (config, read))
        ours, other = (rotary_frequencies(*one) for one in both)
        if not np.allclose(ours[0], other[0], rtol=1e-5, atol=0) or not math.isclose(ours[1], other[1], rel_tol=1e-5):
            lost.append(f"rope_scaling={mine['rope_scaling']!r}")
    return lost


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)  # GGUF has float32
    return one == other


def _kind(gguf: Any, name: str, shape: tuple[int, ...], dtype: str) -> Any:
    kinds = gguf.GGMLQuantizationType
    if len(shape) < 2 or name.startswith(EXACT) or any(f".{part}" in name for part in EXACT):
        return kinds.F32
    kind = kinds[dtype.upper()]
    return kind if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else kinds.F16


def _announce(gguf: Any, writer: Any, name: str, shape: tuple[int, ...], kind: Any) -> None:
    values, width = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(name, shape, np.dtype("float32"), math.prod(shape) // values * width, raw_dtype=kind)


def _encoded(gguf: Any, array: np.ndarray, kind: Any) -> np.ndarray:
    """Return the bytes of an array, quantized in portions of rows."""
    rows = array.astype("float32", copy=False).reshape(-1, array.shape[-1] if array.ndim else 1)
    step = max(1, PORTION // rows.shape[1])
    parts = [gguf.quantize(np.ascontiguousarray(rows[i : i + step]), kind) for i in range(0, len(rows), step)]
    return np.ascontiguousarray(np.concatenate(parts)).view("uint8")


def _add(gguf: Any, writer: Any, key: str, value: Any) -> None:
    """Add one entry of the metadata, of the type that its value has."""
    if key == "general.architecture":
        return  # the writer adds it
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int | np.integer):
        writer.add_uint32(key, int(value))
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif key.endswith("precompiled_charsmap"):
        writer.add_key_value(key, bytes(value), gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.UINT8)
    elif len(value):
        writer.add_array(key, value)
