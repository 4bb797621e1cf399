"""Models in files: our folders, Hugging Face's, GGUF. ``load`` finds out which; ``save``, ``to_huggingface`` write.

Our config.json: ``{"format": "attention_zoo", "version": 1, "family": …, "dtype": …, "config": {…}}``. Our tensors
carry the names of ``weight_name``, such as ``block_0/attention/query/kernel``, in Keras' layout (in, out).
"""

from __future__ import annotations

import collections
import json
import math
import os
import re
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .base import Config, ZooModel
from .gguf_file import GGUFFile
from .presets import FAMILIES
from .registry import families, family
from .tokenizers import Tokenizer
from .weights import (
    SAME,
    Dialect,
    FirstValues,
    Rule,
    SafetensorsFiles,
    Tensors,
    collect,
    fill,
    read_json,
    save_tensors,
    weight_name,
    written,
)

FORMAT, VERSION = "attention_zoo", 1
CONFIG_FILE, WEIGHTS_FILE, IMAGES_FILE = "config.json", "model.safetensors", "preprocessor_config.json"
ACCEPTED = (
    "accepted: a folder with config.json and model.safetensors, of attention_zoo.save or Hugging Face, or a .gguf"
)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
LONGEST = 900  # characters of an error
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


def save(model: ZooModel, folder: str | os.PathLike[str]) -> Path:
    """Write `model` to `folder` as config.json and model.safetensors, and its tokenizer if it has one; ``load`` reads
    it back.

    Raises:
        ValueError: not one of our models, or `folder` is a file.
    """
    folder = _folder_for(model, folder)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "family": model.family,
        "dtype": model.dtype_policy.name,
        "config": model.config.to_dict(),
        **({"huggingface": model.huggingface} if model.huggingface else {}),
        **({"preprocessor": model.preprocessor} if model.preprocessor else {}),
    }
    tensors = {name: np.ascontiguousarray(keras.ops.convert_to_numpy(value)) for name, value in model.merged_weights()}
    save_tensors(tensors, folder / WEIGHTS_FILE, {"format": FORMAT})
    _write_json(config, folder / CONFIG_FILE)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
    return folder


DTYPES = ("float32", "float16", "bfloat16", "float64")


def to_huggingface(
    model: ZooModel, folder: str | os.PathLike[str], *, model_type: str | None = None, dtype: str | None = None
) -> Path:
    """Write `model` as transformers' ``from_pretrained`` opens it: config.json, model.safetensors, tokenizer files.

    A model that was loaded from Hugging Face's files keeps the entries of its config that we do not read, and the dtype
    of its tensors: load and save give the same bytes.

    Args:
        model_type: Hugging Face's word, such as "llama". Default: the one it was loaded from, or the first of the
            family that can hold this config.
        dtype: of the tensors in the file: "float32", "float16" or "bfloat16". Default: that of the files it was loaded
            from, else "float32".

    Raises:
        ValueError: not one of our models, a config that no model type of theirs (or not this one) can hold, or a
            `folder` that is a file.
    """
    folder = _folder_for(model, folder)
    plain = model.without_adapters()
    kind, values = _foreign_config(plain, model_type or model.huggingface.get("model_type"))
    raw = model.huggingface if model.huggingface.get("model_type") == kind else {}
    for name in ("id2label", "label2id"):
        if len(raw.get(name) or ()) == model.config.to_dict().get("num_classes"):
            values.pop(name, None)
    dtype = dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}; accepted: {list(DTYPES)}")
    arrays = {name: _in_dtype(array, dtype) for name, array in collect(plain, model.dialects[kind])}
    save_tensors(arrays, folder / WEIGHTS_FILE, {"format": "pt"})
    _write_json({**raw, "model_type": kind, "torch_dtype": dtype, **values}, folder / CONFIG_FILE)
    if model.config.to_dict().get("head") == "sentence_embedding":
        _write_sentence_modules(model.config, folder)
    if images := model.config.to_dict().get("preprocessing") or model.preprocessor:
        _write_json(images, folder / IMAGES_FILE)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
    return folder


def load(path: str | os.PathLike[str], *, dtype: Any = None, **overrides: Any) -> ZooModel:
    """The model in a folder that ``save`` wrote, in a Hugging Face folder, or in a GGUF file.

    Its tokenizer, if there is one, is ``model.tokenizer``, a Hugging Face config ``model.huggingface``, and what a
    preprocessor_config.json says of images ``model.preprocessor``. A sentence-transformers folder gives
    ``head="sentence_embedding"`` with its pooling. Weights of a GGUF file are dequantised to `dtype`.

    Args:
        path: the folder, or the .gguf file.
        dtype: a Keras dtype policy in the place of the saved one; "float32" for files of others.
        overrides: config fields in the place of the saved ones, such as ``dropout=0.2`` or ``max_length=512``.
            ``preprocessing=True`` gives a ViT that prepares its images itself, as preprocessor_config.json says. With
            another ``head`` than the file has, the body is loaded and the new head is as initialised, which a warning
            says.

    Raises:
        ValueError: no such folder, another format, a config with what we do not have, or weights that do not fit the
            config: missing, surplus, or of another shape. Files that hold pickles are never opened.
    """
    with _in_short():
        return _load(Path(path), dtype, overrides)


@contextmanager
def _in_short() -> Iterator[None]:
    """Of errors that quote what a file says, both ends."""
    try:
        yield
    except ValueError as error:
        if len(text := str(error)) <= LONGEST and type(error) is ValueError:
            raise
        raise ValueError(text if len(text) <= LONGEST else f"{text[:500]} … {text[-300:]}") from error.__cause__


@contextmanager
def _from(path: Path) -> Iterator[None]:
    """Errors name where what they are about comes from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("path: ") else f"path: {path}: {error}") from error


def _load(path: Path, dtype: Any, overrides: dict[str, Any]) -> ZooModel:
    if path.suffix in PICKLES:
        raise ValueError(f"path: got {path}, a format that can hold code and is never opened; {ACCEPTED}")
    if path.suffix == ".gguf":
        return _load_gguf(path, dtype, overrides)
    if not (path / CONFIG_FILE).is_file():
        raise ValueError(f"path: got {path}, without {CONFIG_FILE}; {ACCEPTED}")
    raw = read_json(path / CONFIG_FILE)
    if raw.get("format") == FORMAT:
        model = _load_own(path, raw, dtype, overrides)
    elif "model_type" in raw:
        model = _load_huggingface(path, raw, dtype, overrides)
    else:
        raise ValueError(f"path: {path / CONFIG_FILE} is not of a format we know; {ACCEPTED}")
    if any((path / name).is_file() for name in TOKENIZER_FILES):
        with _from(path):
            model.tokenizer = Tokenizer.load(path)
    return model


# Our own folders.


def _load_own(folder: Path, raw: dict[str, Any], dtype: Any, overrides: dict[str, Any]) -> ZooModel:
    if raw.get("version") != VERSION:
        raise ValueError(f"path: got format version {raw.get('version')!r}; accepted: {VERSION}")
    try:
        cls = family(raw["family"])
        config = _config(cls, {**raw["config"], **overrides})
    except (KeyError, TypeError) as error:
        raise ValueError(f"path: {folder / CONFIG_FILE} lacks or mistypes a field: {error}") from error
    if dtype is None:
        try:
            dtype = keras.dtype_policies.get(raw.get("dtype"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"path: {folder / CONFIG_FILE}: {error}") from error
    tensors = SafetensorsFiles(folder)
    _check_sizes(config, tensors, folder / CONFIG_FILE)
    new_head = "head" in overrides and overrides["head"] != raw["config"].get("head")
    with FirstValues() as later:
        model = cls(config, dtype=dtype)
        names = [weight_name(v) for v in model.weights]
        rules = tuple(Rule(name, name, SAME, head=_of_head(name)) for name in names)
        ours = Dialect(fields=(), rules=rules, ignored=(HEAD_WEIGHTS,) if new_head else ())
        fresh = fill(model, ours, tensors, new_head=new_head, later=later)
    _tell(fresh, folder, 5)
    model.huggingface, model.preprocessor = raw.get("huggingface") or {}, raw.get("preprocessor") or {}
    return model


HEAD_WEIGHTS = r"^(classifier|distillation_classifier|pooler|span|transform|transform_norm|lm_head)/|^output_bias$"


def _of_head(name: str) -> bool:
    return re.match(HEAD_WEIGHTS, name) is not None


# Hugging Face's.


def model_types() -> dict[str, str]:
    """The family of every ``model_type`` that can be loaded."""
    return {kind: name for name, cls in families().items() for kind in cls.dialects if kind != "gguf"}


def _load_huggingface(folder: Path, raw: dict[str, Any], dtype: Any, overrides: dict[str, Any]) -> ZooModel:
    kind, known = raw["model_type"], model_types()
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"path: {folder / CONFIG_FILE} has model_type {kind!r}; accepted: {sorted(known)}")
    if not any((folder / name).is_file() for name in (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json")):
        held = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        why = f"only {held}, which can hold code and are never opened" if held else f"without {WEIGHTS_FILE}"
        raise ValueError(f"path: got {folder} {why}; {ACCEPTED}")
    cls = family(known[kind])
    pooling = _sentence_modules(folder)
    tensors = SafetensorsFiles(folder)
    preprocessor = read_json(folder / IMAGES_FILE) if (folder / IMAGES_FILE).is_file() else {}
    if overrides.get("preprocessing") is True:
        if not preprocessor:
            raise ValueError(f"preprocessing: got True without a {IMAGES_FILE} in {folder}; accepted: a dict")
        overrides = {**overrides, "preprocessing": preprocessor}
    model = _build(cls, cls.dialects[kind], raw, tensors, dtype, pooling, overrides, folder / CONFIG_FILE)
    model.huggingface, model.preprocessor = raw, preprocessor
    return model


def _build(
    cls: type[ZooModel],
    dialect: Dialect,
    raw: Mapping[str, Any],
    tensors: Tensors,
    dtype: Any,
    pooling: dict[str, Any],
    overrides: dict[str, Any],
    where: Path,
) -> ZooModel:
    try:
        values = {**dialect.config(raw, tensors.shapes), **pooling}
        known = "head" in cls.config_class.__dataclass_fields__
        if known and not pooling:
            values["head"] = overrides["head"] if "head" in overrides else dialect.head(raw)
        if values.get("head") is not None:
            values.pop("pooler", None)  # of models without a head
        values |= overrides
        config = _config(cls, {k: v for k, v in values.items() if v is not None or k == "head"})
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"path: {where} lacks or mistypes a field: {error!r}; accepted: a config as saved") from error
    except ValueError as error:
        raise ValueError(f"path: {where}: {_in_their_words(str(error), dialect)}") from error
    _check_sizes(config, tensors, where)
    policy = None if dtype is None else keras.dtype_policies.get(dtype)
    new_head = known and "head" in overrides
    with FirstValues() as later:
        try:
            model = cls(config, dtype=policy)
        except ValueError as error:
            raise ValueError(f"path: {where}: {_in_their_words(str(error), dialect)}") from error
        fresh = fill(model, dialect, tensors, new_head=new_head, later=later)
    _tell(fresh, where.parent)
    return model


def _in_their_words(message: str, dialect: Dialect) -> str:
    """An error about a field of ours, about the entry of their config that fills it."""
    ours, _, rest = message.partition(":")
    theirs = next((entry.theirs for entry in dialect.fields if entry.ours == ours), ours)
    return message if theirs == ours else f"{theirs} (our {ours}):{rest}"


def _config(cls: type[ZooModel], values: Mapping[str, Any]) -> Config:
    """The config of these values, of which files say all kinds.

    Raises:
        ValueError: as ``from_dict``, and for a value of another type than its field, or beyond int32.
    """
    hints = typing.get_type_hints(cls.config_class)
    for name, value in values.items():
        if (accepted := _accepted(value, hints.get(name, Any))) is not None:
            raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")
    return cls.config_class.from_dict(values)


def _accepted(value: Any, hint: Any) -> str | None:
    """What a field with this hint takes in the place of `value`; None where that may be good."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if not set(kinds) <= {bool, int, float, str, type(None)} or (value is None and type(None) in kinds):
        return None
    if bool in kinds:
        return None if isinstance(value, bool) else "true or false"
    if str in kinds:
        return None if isinstance(value, str) else "a string"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    if float in kinds:
        return None if 0 <= value < 2**63 else "a finite number of at least 0"
    return None if isinstance(value, int) and abs(value) < 2**31 else "an integer below 2^31"


def _check_sizes(config: Any, tensors: Tensors, where: Path) -> None:
    """Refuse sizes far beyond the tensors before a model of them is made, which could take all memory and not fit.

    Sizes that are merely wrong make a model, and ``fill`` tells tensor by tensor what does not fit.
    """
    said = config.to_dict()
    c = {name: value if isinstance(value, int) else 0 for name, value in said.items()}
    c = collections.defaultdict(int, c)
    layers = c["num_layers"] + c["num_decoder_layers"]
    rows = {
        "num_classes": c["num_classes"] * str(said.get("head")).endswith("classification"),
        "vocab_size": c["vocab_size"],
        "type_vocab_size": c["type_vocab_size"],
        "max_length": c["max_length"] * (said.get("position", "learned") == "learned"),
        "position_offset": c["position_offset"],
        "image_size": (c["image_size"] // (c["patch_size"] or 1)) ** 2,
        "patch_size": c["patch_size"] ** 2 * c["num_channels"],
        "num_registers": c["num_registers"],
        "intermediate_dim": layers * c["intermediate_dim"],
        "head_dim": layers * (c["num_heads"] * c["head_dim"] or c["hidden_dim"]),
    }
    wanted = c["hidden_dim"] * sum(rows.values()) + c["num_heads"] * c["num_buckets"]
    held = sum(math.prod(shape) for shape in tensors.shapes.values())
    if wanted > 4 * held + 2**22 or layers > max(8, len(tensors.shapes)):
        names = ["num_layers", "num_decoder_layers", "num_heads", "num_channels", "num_buckets", "hidden_dim", *rows]
        sizes = ", ".join(f"{name}={c[name]}" for name in names if c[name])
        raise ValueError(
            f"path: {where}: got {sizes}, at least {wanted} numbers; accepted: the sizes of the tensors of "
            f"{tensors.where}, which hold {held} in {len(tensors.shapes)}"
        )


def _tell(fresh: list[str], folder: Path, stacklevel: int = 6) -> None:
    """Where the user's line is `stacklevel` calls away."""
    if fresh:
        told = f"{folder} has no such head: {', '.join(fresh)} are as initialised, to be trained"
        warnings.warn(told, stacklevel=stacklevel)


def _foreign_config(model: ZooModel, wanted: str | None) -> tuple[str, dict[str, Any]]:
    """The model type of theirs that says what our config says, and its config."""
    kinds = [kind for kind in model.dialects if kind != "gguf"]
    if wanted is not None and wanted not in kinds:
        raise ValueError(f"model_type: got {wanted!r}; accepted for {model.family}: {kinds}")
    problems = []
    for kind in [wanted] if wanted else kinds:
        dialect = model.dialects[kind]
        try:
            values = dialect.foreign(model.config)
            names = {name for name, _, _ in dialect.plan(model)}
            again = {**dialect.config(values, names), "head": model.config.to_dict().get("head")}
            again = {name: value for name, value in again.items() if name in model.config.to_dict()}
            read = model.config_class.from_dict({**again, **_unsaid(model.config)})
        except (KeyError, ValueError) as error:
            problems.append(f"{kind} ({error})")
            continue
        ours, theirs = model.config.to_dict(), read.to_dict()
        if differ := sorted(name for name in ours if ours[name] != theirs[name]):
            problems.append(f"{kind} ({', '.join(f'{name}={ours[name]!r}' for name in differ)})")
        else:
            return kind, values
    raise ValueError(f"model: got a config that transformers cannot hold as {'; '.join(problems)}; accepted: others")


def _unsaid(config: Any) -> dict[str, Any]:
    """Fields that change no result of a model with this head, or that stand elsewhere (modules.json)."""
    mine, head = config.to_dict(), config.to_dict().get("head")
    names = ["initializer_range", "dropout", "attention_dropout", "pooling", "normalize", "preprocessing"]
    names += ["pad_token_id"] if mine.get("position_offset") == 0 else []
    names += [] if head is None else ["pooler"]
    names += [] if head == "masked_lm" else ["transform_activation", "transform_norm_epsilon"]
    names += [] if head in ("sequence_classification", "image_classification") else ["pooler_activation", "classifier"]
    names += [] if str(head).endswith("classification") else ["num_classes"]
    return {name: mine[name] for name in names if name in mine}


def _in_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype)


# sentence-transformers.

_POOLINGS = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}


def _sentence_modules(folder: Path) -> dict[str, Any]:
    """Head and pooling that modules.json asks for, or nothing.

    Raises:
        ValueError: a module or a pooling we do not have, or one in another folder.
    """
    if not (folder / "modules.json").is_file():
        return {}
    try:
        modules = read_json(folder / "modules.json", list)
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        places = [str(module["path"]) for module in modules]
    except (KeyError, TypeError) as error:
        accepted = "accepted: a list of objects with type and path"
        raise ValueError(f"path: {folder / 'modules.json'}: got {error!r}; {accepted}") from error
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(f"path: {folder / 'modules.json'}: got {kinds}; accepted: Transformer, Pooling, Normalize")
    if places[0] or not re.fullmatch(r"[\w-]+", places[1]):
        raise ValueError(f"path: {folder / 'modules.json'}: got paths {places}; accepted: names of folders in it")
    said = read_json(folder / places[1] / "config.json")
    chosen = sorted(name for name, value in said.items() if name.startswith("pooling_mode_") and value is True)
    by_mode = {mode: name for name, mode in _POOLINGS.items()}
    if len(chosen) != 1 or chosen[0] not in by_mode:
        raise ValueError(f"path: {folder / places[1]}: got {chosen}; accepted: one of {sorted(by_mode)}")
    return {"head": "sentence_embedding", "pooling": by_mode[chosen[0]], "normalize": "Normalize" in kinds}


def _write_sentence_modules(config: Any, folder: Path) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", **({"2_Normalize": "Normalize"} if config.normalize else {})}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    modes = {mode: name == config.pooling for name, mode in _POOLINGS.items()}
    _write_json({"word_embedding_dimension": config.hidden_dim, **modes}, folder / "1_Pooling" / "config.json")
    _write_json({"max_seq_length": config.max_length, "do_lower_case": False}, folder / "sentence_bert_config.json")
    _write_json(modules, folder / "modules.json")


# GGUF.


def _load_gguf(file: Path, dtype: Any, overrides: dict[str, Any]) -> ZooModel:
    tensors = GGUFFile(file)
    raw = dict(tensors.fields)
    if "rope_freqs.weight" in tensors.shapes:
        raw["rope_freqs"] = tensors.read("rope_freqs.weight")
    cls = family("gpt")
    model = _build(cls, cls.dialects["gguf"], raw, tensors, dtype, {}, overrides, file)
    if "tokenizer.ggml.model" in raw:
        with _from(file):
            model.tokenizer = Tokenizer.from_gguf(raw)
    return model


def _folder_for(model: Any, folder: str | os.PathLike[str]) -> Path:
    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a model of attention_zoo")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: got {folder}, which is a file; accepted: a folder, made if it is not there")
    return folder


def _write_json(value: Any, file: Path) -> None:
    with written(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


__all__ = ["FAMILIES", "load", "model_types", "save", "to_huggingface"]
