"""Write models to folders: ``save`` in the format of this package, ``to_huggingface`` in that of transformers.

The config.json that ``save`` writes is
``{"format": "attention_zoo", "version": 1, "family": …, "dtype": …, "config": {…}}``. Its tensors are named as by
``weight_name``, such as ``block_0/attention/query/kernel``, and have Keras' layout (in, out).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import checks
from ..files import write_json, written_files
from ..text.tokenizer_files import template_files
from ..weights.fill import collect, without_values
from ..weights.placement import whole
from ..weights.tensors import save_tensors
from .base import ZooModel
from .companions import DICTS
from .loading import CONFIG_FILE, FORMAT, GENERATION_FILE, IMAGES_FILE, UNUSED, VERSION, WEIGHTS_FILE
from .registry import family
from .sentence_transformers import without_projections, write_sentence_modules
from .ties import KEY, tied


def save(model: ZooModel, folder: str | os.PathLike[str]) -> Path:
    """Write `model` to `folder` as config.json and model.safetensors, with its tokenizer if it has one.

    ``load`` reads the folder. Adapters are merged into the weights.

    Args:
        model: a model of this package, whose layers are as its config specifies.
        folder: the folder to write to; it is created if it does not exist.

    Returns:
        The path of the folder.

    Raises:
        ValueError: `model` is of another class or its layers differ from its config, or `folder` is a file.
    """
    folder = _folder_for(model, folder)
    config = tied(
        {
            "format": FORMAT,
            "version": VERSION,
            "family": model.family,
            "dtype": model.dtype_policy.name,
            "config": model.config.to_dict(),
            **{name: value for name in DICTS if (value := getattr(model, name))},
        }
    )
    tensors = {name: np.asarray(whole(value), order="C") for name, value in model.merged_weights()}
    tensors |= {UNUSED + name: value for name, value in model.unused.items()}
    with written_files(folder, CONFIG_FILE, _stale(model, folder)) as new:
        save_tensors(tensors, new / WEIGHTS_FILE, {"format": FORMAT, KEY: config[KEY]})
        write_json(config, new / CONFIG_FILE)
        if model.tokenizer is not None:
            model.tokenizer.save(new)
    return folder


DTYPES = ("float32", "float16", "bfloat16", "float64")


def to_huggingface(
    model: ZooModel, folder: str | os.PathLike[str], *, model_type: str | None = None, dtype: str | None = None
) -> Path:
    """Write `model` to a folder that transformers' ``from_pretrained`` loads: config, weights and tokenizer files.

    These are config.json, model.safetensors and, if the model has them, the tokenizer files, the generation config, the
    image preprocessor config and the modules of sentence-transformers. Adapters are merged into the weights.

    For a model that was loaded from a Hugging Face folder, config entries that this package does not use and the dtype
    of the tensors are kept, so that saving writes the same bytes again. This includes weights that no head uses, such
    as the pooler of a sentence embedding. They are dropped when ``fit`` trains the body, because they no longer match
    it, and with a new head. After a custom training loop, call ``model.unused.clear()``.

    Args:
        model: a model of this package, whose layers are as its config specifies.
        folder: the folder to write to; it is created if it does not exist.
        model_type: Hugging Face's name of the architecture, such as "llama". Default: that of the folder the model was
            loaded from, or else the family's first model type that can represent the config.
        dtype: dtype of the tensors in the file: "float32", "float16", "bfloat16" or "float64". Default: that of the
            folder the model was loaded from, or else "float32".

    Returns:
        The path of the folder.

    Raises:
        ValueError: `model` is of another class or its layers differ from its config, the config cannot be represented
            by `model_type` (or by any model type), `dtype` is unknown, or `folder` is a file.
    """
    folder = _folder_for(model, folder)
    plain = model.without_adapters()
    config = tied(huggingface_config(model, plain, model_type, dtype))
    arrays = {
        name: _in_dtype(array, config["torch_dtype"])
        for name, array in collect(plain, model.dialects[config["model_type"]])
    }
    arrays, projections = without_projections(arrays)
    with written_files(folder, CONFIG_FILE, _stale(model, folder)) as new:
        save_tensors(arrays, new / WEIGHTS_FILE, {"format": "pt", KEY: config[KEY]})
        write_beside_weights(model, config, new, projections)
    return folder


def _stale(model: ZooModel, folder: Path) -> list[str]:
    """Return the files in `folder` that would take precedence over what is written there."""
    return [] if model.tokenizer is None else template_files(folder)


def huggingface_config(
    model: ZooModel, plain: ZooModel, model_type: str | None = None, dtype: str | None = None
) -> dict[str, Any]:
    """Return the content of the config.json that ``to_huggingface`` writes; `plain` is `model` without adapters."""
    kind, values = _foreign_config(plain, model_type or model.huggingface.get("model_type"))
    raw = model.huggingface if model.huggingface.get("model_type") == kind else {}
    for name in ("id2label", "label2id"):
        if len(raw.get(name) or ()) == model.config.to_dict().get("num_classes"):
            values.pop(name, None)
    dtype = dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}; accepted: {list(DTYPES)}")
    for name in values:  # configs inside the config keep their other entries too
        if name.endswith("_config") and isinstance(values[name], dict) and isinstance(raw.get(name), dict):
            values[name] = {**raw[name], **values[name]}
    # transformers 5 reads "dtype" and ignores "torch_dtype" beside it; versions before 4.56 know "torch_dtype" only.
    return {**raw, "model_type": kind, "dtype": dtype, "torch_dtype": dtype, **values}


def projection_tensors(plain: ZooModel, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of the dense layers after a pooling, for ``write_beside_weights``; `plain` has no adapters."""
    if not plain.config.to_dict().get("projections"):
        return {}
    found: dict[str, np.ndarray] = {}
    for name, array in collect(plain, plain.dialects[config["model_type"]]):
        found |= without_projections({name: _in_dtype(array, config["torch_dtype"])})[1]
    return found


def write_beside_weights(
    model: ZooModel, config: Mapping[str, Any], folder: Path, projections: Mapping[str, np.ndarray]
) -> None:
    """Write all files of ``to_huggingface`` except the weights: config.json, the tokenizer and the other configs.

    The dense layers after a pooling have folders of their own; `projections` are their tensors.
    """
    write_json(config, folder / CONFIG_FILE)
    write_sentence_modules(model, folder, projections)
    if model.generation_config:
        write_json(model.generation_config, folder / GENERATION_FILE)
    if images := model.config.to_dict().get("preprocessing") or model.preprocessor:
        write_json(images, folder / IMAGES_FILE)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)


def _foreign_config(model: ZooModel, wanted: str | None) -> tuple[str, dict[str, Any]]:
    """Return the Hugging Face model type that represents the model's config exactly, and the config in its format."""
    kinds = [kind for kind in model.dialects if kind != "gguf"]
    if wanted is not None and wanted not in kinds:
        raise ValueError(f"model_type: got {wanted!r}; accepted for {model.family}: {kinds}")
    problems = []
    for kind in [wanted] if wanted else kinds:
        dialect = model.dialects[kind]
        try:
            names = {name for name, _, _ in dialect.plan(model)}
            differences = dialect.differences(model.config, names, model.config.training_fields())
        except (KeyError, ValueError) as error:
            problems.append(f"{kind} ({error})")
            continue
        if not differences:
            return kind, dialect.foreign(model.config)
        problems.append(f"{kind} ({', '.join(f'{name}={ours!r}' for name, (ours, _) in differences.items())})")
    raise ValueError(f"model: got a config that transformers cannot hold as {'; '.join(problems)}; accepted: another")


def _in_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype)


def _folder_for(model: Any, folder: str | os.PathLike[str]) -> Path:
    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a model of attention_zoo")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: got {folder}, which is a file; accepted: a folder, made if it is not there")
    if found := changes(model):
        raise ValueError(
            f"model: got a {model.family} that is not as its config says: {'; '.join(found[:4])}; accepted: one whose "
            "layers are those of its config, as that is what is saved"
        )
    if own := _overridden(model):
        checks.warn(
            f"{type(model).__name__} computes in its own way ({', '.join(own)}), which is not saved: load gives a "
            f"{family(model.family).__name__} back"
        )
    return folder


def _overridden(model: ZooModel) -> list[str]:
    """Return the names of the methods that a user's subclass overrides, except those that only affect training."""
    cls = family(model.family)
    above = type(model).__mro__[: type(model).__mro__.index(cls)] if isinstance(model, cls) else (type(model),)
    named = {
        name for part in above for name, value in vars(part).items() if callable(value) or isinstance(value, property)
    }
    steps = {"train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"}
    found = []
    for name in sorted(named - {"__init__", "compile", "fit", "evaluate", "predict", "tiny", *steps}):
        owner = next((part for part in cls.__mro__ if name in vars(part)), object)
        if owner.__module__.partition(".")[0] not in ("keras", "builtins", "tensorflow"):
            found.append(name)
    return found


def changes(model: ZooModel) -> list[str]:
    """Describe how the layers of `model` differ from those its config specifies.

    Adapters do not count, because they are merged into the weights when the model is saved.
    """
    with without_values() as seen:
        plain = seen(type(model)(model.config, name=model.name))
    found = []
    names = [[[block.name for block in stack] for stack in each.block_stacks()] for each in (model, plain)]
    if names[0] != names[1]:
        found.append("blocks: in another order")
    ours, theirs = _settings(model), _settings(plain)
    for path in sorted({*ours, *theirs}):
        if path not in ours or path not in theirs:
            found.append(f"{path}: {'added' if path in ours else 'replaced or missing'}")
            continue
        for name in sorted({*ours[path], *theirs[path]}):
            if (one := ours[path].get(name)) != (other := theirs[path].get(name)):
                found.append(f"{path}: {name} {one!r} for {other!r}")
    return found


def _settings(layer: Any, path: str = "") -> dict[str, dict[str, Any]]:
    """Return, by the path of each layer inside `layer`, the options in its ``get_config`` that affect its output."""
    found: dict[str, dict[str, Any]] = {}
    for part in layer._layers:
        config = {"class": type(part).__name__, **part.get_config()}
        found[f"{path}{part.name}"] = {
            name: value
            for name, value in config.items()
            if name not in ("name", "dtype", "trainable") and "lora" not in name and "initializer" not in name
        }
        found |= _settings(part, f"{path}{part.name}/")
    return found
