"""Convert KerasHub models to attention_zoo models and back, in memory: the config and all weights.

    model = az.from_keras_hub(keras_hub.models.Llama3CausalLM.from_preset("llama3_8b_en"))
    theirs = az.to_keras_hub(model, kind="Llama3")

The same rules are used in both directions. The supported kinds and classes are:

    Bert, XLMRoberta
                    …Backbone, …MaskedLM, …TextClassifier, …TextEmbedder
    Roberta, DistilBert, Albert, DebertaV3
                    …Backbone, …MaskedLM, …TextClassifier
    Electra         ElectraBackbone
    GPT2, Llama, Llama3, Mistral, Qwen (1.5 to 2.5), Qwen3, Phi3, Mixtral, Gemma (1 and 2), Gemma3 (text)
                    …Backbone, …CausalLM
    ViT, DeiT       …Backbone, …ImageClassifier
    DINOV2          DINOV2Backbone
    Bart, T5        …Backbone, …Seq2SeqLM
    Whisper         WhisperBackbone

The rules follow keras-hub 0.32 (``keras_hub/src/models``). Both models compute the same function at inference.
Dropout rates are kept, but in training the two libraries apply dropout in different places. KerasHub numbers positions
by column, so the outputs of decoders and of RoBERTa agree only for rows without padding on the left. KerasHub's RoBERTa
also has no position rows for padding and no token types: for a model from a Hugging Face file, which has both, the rows
for padding are left out, and the embedding of the single token type is added to the positions. KerasHub's Qwen3
normalizes query and key heads with an epsilon of 1e-5, whatever `layer_norm_epsilon` is; this package uses
`layer_norm_epsilon`, as the published model does. KerasHub's DINOv2 has two position tables; the one for its own image
size is converted. Refused are Gemma 1 to 3 with ``query_head_dim_normalize=False``, an option that KerasHub ignores, or
with an epsilon other than 1e-6, which KerasHub applies to the last norm only; and Gemma 3 with images or with scaled
local positions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from .. import checks
from ..needs import named_extras
from ..text.tokenizer import Tokenizer
from ..weights.fill import assign, collect, fill
from ..weights.rules import Dialect
from ..weights.tensors import Shape
from .base import ZooModel
from .keras_hub_rules import TASK
from .registry import family, own_dialects
from .special_ids import without_outside_ids


def from_keras_hub(source: Any, *, dtype: Any = None, **overrides: Any) -> ZooModel:
    """Convert a KerasHub model to a model of this package with the same config, weights and tokenizer.

    A task is converted with its head, a backbone with ``head=None``. A Llama-like backbone may have its own output
    projection; pass ``head="causal_lm"`` to convert it too. The tokenizer of a task's preprocessor becomes
    ``model.tokenizer``, and the config gets its special token ids. A tokenizer of an unsupported kind is left out with
    a warning. Image preprocessing is not converted.

    Args:
        source: a KerasHub backbone or task of one of the classes listed in the module docstring.
        dtype: a Keras dtype policy. Default: that of the source's backbone.
        overrides: config fields that replace those of the source. KerasHub does not have `initializer_range`, nor
            `max_length` for Llama-like models: it becomes 2048, or the extended context length if the positions are
            scaled as in Llama 3. With a ``head`` that differs from that of the source, only the body is converted; the
            new head keeps its initial values, and a warning lists its weights.

    Returns:
        A built model of the family's class, such as ``GPT``.

    Raises:
        ValueError: `source` is of another class, has an option that is not supported or weights that such a model does
            not have (LoRA or quantized weights), or the config does not accept a field.
    """
    kind, head = _kind_of(source)
    name, dialect = kinds()[kind]
    cls = family(name)
    backbone = getattr(source, "backbone", source)
    raw = _options(source, backbone)
    if "dropout" in overrides:
        raw.pop(f"{TASK}dropout", None)  # the override replaces both rates, which need not be equal then
    values = {**dialect.config(raw, ()), "head": head, **_special_tokens(source, cls)}
    values = {**without_outside_ids(cls.config_class, values, f"source: {source.name}"), **overrides}
    config = cls.config_class.from_dict(values)
    model = cls(config, dtype=backbone.dtype_policy if dtype is None else dtype)
    try:
        fresh = fill(model, dialect, _Weights(source, backbone, dialect, config), new_head="head" in overrides)
    except ValueError as error:
        raise ValueError(str(error).replace("path: ", "source: ", 1)) from error
    if fresh:
        checks.warn(f"{source.name} has no such head: {', '.join(fresh)} keep their initial values")
    tokenizer = getattr(getattr(source, "preprocessor", None), "tokenizer", None)
    if tokenizer is not None:
        try:
            model.tokenizer = Tokenizer.from_keras_hub(tokenizer, model_max_length=values.get("max_length"))
        except ValueError as error:
            checks.warn(f"the model is without its tokenizer: {error}")
    return model


def to_keras_hub(model: ZooModel, *, kind: str | None = None) -> Any:
    """Convert `model` to a KerasHub model with the same config and weights.

    Special token ids, `initializer_range` and, for Llama-like kinds, `max_length` are lost, because the KerasHub model
    has no such options. Weights that only the KerasHub model has keep their initial values, and a warning lists them:
    BERT's pooler for a masked LM or a sentence embedding, and Llama's output projection for ``head=None``.

    Args:
        model: a ``GPT``, ``BERT``, ``ViT``, ``Transformer`` or ``Whisper``.
        kind: one of ``kinds()``, such as "Llama3". Default: the first kind that can represent the config.

    Returns:
        A KerasHub backbone for ``head=None``, else a task without a preprocessor.

    Raises:
        ValueError: `model` is of another class, `kind` is unknown or cannot represent the config, or the model has
            adapters.
        ModuleNotFoundError: KerasHub is not installed.
    """
    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a model of attention_zoo")
    dialects = model.keras_hub_dialects
    if not dialects:
        known = sorted({name for name, _ in kinds().values()})
        raise ValueError(f"model: got a {model.family}; accepted: one of {known}")
    if kind is not None and kind not in dialects:
        raise ValueError(f"kind: got {kind!r}; accepted for a {model.family}: {list(dialects)}")
    kind = _kind_for(model.config, {kind: dialects[kind]} if kind else dialects)
    dialect, head = dialects[kind], model.config.head
    values = dialect.foreign(model.config)
    values.pop("architectures")
    body = {name: value for name, value in values.items() if not name.startswith(TASK)}
    task = {name.removeprefix(TASK): value for name, value in values.items() if name.startswith(TASK)}
    arrays = collect(model, dialect)

    models = _models()
    theirs = backbone = getattr(models, dialect.heads[None])(**body, dtype=model.dtype_policy)
    if dialect.heads[head] != dialect.heads[None]:
        theirs = getattr(models, dialect.heads[head])(backbone=backbone, **task)
    left = {id(variable): variable.path for variable in theirs.weights}
    for name, array in arrays:
        variable = _find(theirs, backbone, name.removeprefix(dialect.prefix))
        assign(variable, array)
        del left[id(variable)]
    if left:
        checks.warn(f"{model.name} has no such weights: {', '.join(left.values())} keep their initial values")
    return theirs


def _models() -> Any:
    with named_extras():
        import keras_hub
    return keras_hub.models


def kinds() -> dict[str, tuple[str, Dialect]]:
    """Return the family name and the dialect of every kind. ``to_keras_hub`` tries a family's kinds in this order."""
    return own_dialects("keras_hub_dialects")


# The config of a KerasHub model.


def _kind_of(source: Any) -> tuple[str, str | None]:
    """Return the kind and the ``head`` of a KerasHub model. Subclasses are refused: they may compute something else."""
    classes = {cls: (kind, head) for kind, (_, dialect) in kinds().items() for head, cls in dialect.heads.items()}
    classes |= {cls: (kind, head) for kind, (_, d) in kinds().items() for cls, head in d.other_classes.items()}
    named = type(source).__name__
    if named not in classes or not type(source).__module__.startswith("keras_hub."):
        raise ValueError(f"source: got {type(source).__module__}.{named}; accepted: KerasHub's {sorted(classes)}")
    return classes[named]


def _options(source: Any, backbone: Any) -> dict[str, Any]:
    """Return the constructor arguments of a KerasHub model; those of a task have the prefix ``TASK``."""
    options = {**backbone.get_config(), "architectures": [type(source).__name__]}
    for name in ("tie_word_embeddings", "data_format"):  # missing in some get_config of KerasHub
        if hasattr(backbone, name):
            options[name] = getattr(backbone, name)
    if source is not backbone:
        for name in (
            "num_classes",
            "dropout",
            "pooling",
            "hidden_dim",
            "intermediate_dim",
            "pooling_mode",
            "normalize",
        ):
            if hasattr(source, name):
                options[TASK + name] = getattr(source, name)
        activation = keras.activations.get(getattr(source, "activation", None))
        linear = activation is keras.activations.linear
        options[f"{TASK}activation"] = None if linear else getattr(activation, "__name__", str(activation))
    return options


def _special_tokens(source: Any, cls: type[ZooModel]) -> dict[str, Any]:
    """Return the special token ids of a task's tokenizer, as far as the config of `cls` has fields for them."""
    tokenizer = getattr(getattr(source, "preprocessor", None), "tokenizer", None)
    ends = [getattr(tokenizer, name, None) for name in ("end_token_id", "end_token2_id")]  # Llama 3 has two end tokens
    ends = tuple(end for end in ends if end is not None)
    found = {
        "bos_token_id": getattr(tokenizer, "start_token_id", None),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": getattr(tokenizer, "pad_token_id", None),
    }
    return {name: value for name, value in found.items() if name in cls.config_class.__dataclass_fields__}


def _kind_for(config: Any, dialects: Mapping[str, Dialect]) -> str:
    """Return the first kind for which `config` survives a round trip to KerasHub's options and back.

    Raises:
        ValueError: there is no such kind. The message lists the differences for the kind with the fewest.
    """
    problems = {kind: _problems(config, dialect) for kind, dialect in dialects.items()}
    kind = min(problems, key=lambda kind: len(problems[kind]))
    if problems[kind]:
        raise ValueError(f"{'; '.join(problems[kind])}, for KerasHub's {kind}")
    return kind


def _problems(config: Any, dialect: Dialect) -> list[str]:
    if config.head not in dialect.heads:
        return [f"head: got {config.head!r}; accepted: {list(dialect.heads)}"]
    try:
        differences = dialect.differences(config, ())
    except ValueError as error:
        return [str(error)]
    return [f"{name}: got {ours!r}; accepted: {theirs!r}" for name, (ours, theirs) in differences.items()]


# The weights of a KerasHub model.


class _Weights:
    """The weights of a KerasHub model with the interface of ``Tensors``.

    Names are attribute paths, which unlike Keras' variable paths contain no automatically numbered layer names.
    """

    def __init__(self, source: Any, backbone: Any, dialect: Dialect, config: Any) -> None:
        self.where = f"the {type(source).__name__} {source.name!r}"
        self.variables: dict[str, Any] = {}
        body, left = {id(v) for v in backbone.weights}, {id(v): v for v in source.weights}
        for name in _names(dialect, config):
            if (variable := _find(source, backbone, name)) is not None and id(variable) in left:
                del left[id(variable)]
                self.variables[dialect.prefix * (id(variable) in body) + name] = variable
        self.variables |= {variable.path: variable for variable in left.values()}
        self.shapes: Mapping[str, Shape] = {name: tuple(variable.shape) for name, variable in self.variables.items()}

    def read(self, name: str) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(self.variables[name]))


def _names(dialect: Dialect, config: Any) -> Iterator[str]:
    """Yield the names of all weights that the rules know for a model with this config, whatever its head."""
    for rule in dialect.rules(config) if callable(dialect.rules) else dialect.rules:
        for i in range(config.num_layers if "{i}" in rule.theirs else 1):
            yield rule.theirs.replace("{i}", str(i))


def _find(source: Any, backbone: Any, name: str) -> Any:
    """Return the variable at a path of attributes, list indices and layer names, or None if there is none.

    The path is looked up in `backbone` first and then in `source`.
    """
    variable = functools.reduce(_step, name.split("."), backbone)
    return functools.reduce(_step, name.split("."), source) if variable is None else variable


def _step(parent: Any, part: str) -> Any:
    if part.isdigit():
        return parent[int(part)] if parent is not None and int(part) < len(parent) else None
    named = {layer.name: layer for layer in parent.layers} if isinstance(parent, keras.Model) else {}
    return getattr(parent, part, named.get(part))
