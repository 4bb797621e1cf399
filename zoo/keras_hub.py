"""KerasHub's models to ours and back: config and every weight, in memory, checked against the same rules both ways.

    model = az.from_keras_hub(keras_hub.models.Llama3CausalLM.from_preset("llama3_8b_en"))
    theirs = az.to_keras_hub(model, kind="Llama3")

    Bert            BertBackbone, BertMaskedLM, BertTextClassifier, BertTextEmbedder
    GPT2            GPT2Backbone, GPT2CausalLM
    Llama, Llama3, Mistral, Qwen (1.5 to 2.5), Qwen3
                    …Backbone, …CausalLM
    ViT             ViTBackbone, ViTImageClassifier

The source of the tables is keras-hub 0.32 (``keras_hub/src/models``). Inference is the same function; in training,
rates of dropout are kept while each library drops where it does. KerasHub numbers positions by column, so that a
decoder's results are the same for rows padded on the right only. Its Qwen3 normalises query and key heads with an
epsilon of 1e-5 whatever `layer_norm_epsilon` says; here they have the latter, as in the published model.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

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
    """Our model with the config, the weights and, if it is of a kind we know, the tokenizer of a KerasHub one.

    A task gives its head, a backbone ``head=None``. A backbone of Llama's kinds that has its own table for logits is
    read whole with ``head="causal_lm"``. The tokenizer of a task's preprocessor becomes ``model.tokenizer``, and its
    special tokens the config's; image preprocessing is left where it is.

    Args:
        source: a backbone or a task; see the module.
        dtype: a Keras dtype policy. Default: the source's.
        overrides: config fields in the place of those found. KerasHub has no `initializer_range`, and Llama's kinds no
            `max_length`, which is 2048 unless a scaling of the positions says more. With another ``head`` than the
            source has, the body is kept and the new head is as initialised, which a warning says.

    Raises:
        ValueError: another object, an option that we do not have, weights that such a model does not have (of LoRA, of
            quantisation), or a field that the config does not accept.
    """
    kind, head = _kind_of(source)
    name, dialect = kinds()[kind]
    cls = family(name)
    backbone = source if head is None else source.backbone
    raw = _options(source, backbone)
    if "dropout" in overrides:
        raw.pop(f"{TASK}dropout", None)  # it need not agree with the backbone's any more
    values = {**dialect.config(raw, ()), "head": head, **_special_tokens(source, cls)}
    values = {**without_outside_ids(cls.config_class, values, f"source: {source.name}", 2), **overrides}
    config = cls.config_class.from_dict(values)
    model = cls(config, dtype=backbone.dtype_policy if dtype is None else dtype)
    try:
        fresh = fill(model, dialect, _Weights(source, backbone, dialect, config), new_head="head" in overrides)
    except ValueError as error:
        raise ValueError(str(error).replace("path: ", "source: ", 1)) from error
    if fresh:
        warnings.warn(f"{source.name} has no such head: {', '.join(fresh)} are as initialised", stacklevel=2)
    tokenizer = getattr(getattr(source, "preprocessor", None), "tokenizer", None)
    if tokenizer is not None:
        try:
            model.tokenizer = Tokenizer.from_keras_hub(tokenizer, model_max_length=values.get("max_length"))
        except ValueError as error:
            warnings.warn(f"the model is without its tokenizer: {error}", stacklevel=2)
    return model


def to_keras_hub(model: ZooModel, *, kind: str | None = None) -> Any:
    """KerasHub's backbone (``head=None``) or task, without a preprocessor, with the config and weights of `model`.

    What our config says of texts (special tokens), of fresh weights (`initializer_range`) and, for Llama's kinds,
    `max_length` has no place there. Where they have weights that `model` has not (BERT's pooler under a masked LM or a
    sentence embedding, Llama's table for logits under ``head=None``), these are as initialised, which a warning says.

    Args:
        model: a GPT, BERT or ViT.
        kind: one of ``kinds()``, such as "Llama3". Default: the first that can hold the config.

    Raises:
        ValueError: another object, an unknown `kind`, a config that theirs cannot hold, or a model with adapters.
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
    if head is not None:
        theirs = getattr(models, dialect.heads[head])(backbone=backbone, **task)
    left = {id(variable): variable.path for variable in theirs.weights}
    for name, array in arrays:
        variable = _find(theirs, backbone, name.removeprefix(dialect.prefix))
        assign(variable, array)
        del left[id(variable)]
    if left:
        warnings.warn(f"{model.name} has no such weights: {', '.join(left.values())} are as initialised", stacklevel=2)
    return theirs


def _models() -> Any:
    with named_extras():
        import keras_hub
    return keras_hub.models


def kinds() -> dict[str, tuple[str, Dialect]]:
    """The family and the dialect of every kind; where several can hold a config, the first is taken."""
    return own_dialects("keras_hub_dialects")


# Their config.


def _kind_of(source: Any) -> tuple[str, str | None]:
    """The kind and the ``head`` of a KerasHub model. A subclass may compute something else, and is not known."""
    classes = {cls: (kind, head) for kind, (_, dialect) in kinds().items() for head, cls in dialect.heads.items()}
    named = type(source).__name__
    if named not in classes or not type(source).__module__.startswith("keras_hub."):
        raise ValueError(f"source: got {type(source).__module__}.{named}; accepted: KerasHub's {sorted(classes)}")
    return classes[named]


def _options(source: Any, backbone: Any) -> dict[str, Any]:
    """The arguments that a model was made with; those of a task carry a prefix."""
    options = {**backbone.get_config(), "architectures": [type(source).__name__]}
    for name in ("tie_word_embeddings", "data_format"):  # which some of their get_config forget
        if hasattr(backbone, name):
            options[name] = getattr(backbone, name)
    if source is not backbone:
        for name in ("num_classes", "dropout", "pooling", "intermediate_dim", "pooling_mode", "normalize"):
            if hasattr(source, name):
                options[TASK + name] = getattr(source, name)
        activation = keras.activations.get(getattr(source, "activation", None))
        linear = activation is keras.activations.linear
        options[f"{TASK}activation"] = None if linear else getattr(activation, "__name__", str(activation))
    return options


def _special_tokens(source: Any, cls: type[ZooModel]) -> dict[str, Any]:
    """Of a task's tokenizer, the fields that our config has."""
    tokenizer = getattr(getattr(source, "preprocessor", None), "tokenizer", None)
    ends = [getattr(tokenizer, name, None) for name in ("end_token_id", "end_token2_id")]  # Llama 3 has two
    ends = tuple(end for end in ends if end is not None)
    found = {
        "bos_token_id": getattr(tokenizer, "start_token_id", None),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": getattr(tokenizer, "pad_token_id", None),
    }
    return {name: value for name, value in found.items() if name in cls.config_class.__dataclass_fields__}


def _kind_for(config: Any, dialects: Mapping[str, Dialect]) -> str:
    """The first kind that gives `config` back when it is written and read.

    Raises:
        ValueError: none does; says what stands in the way of the nearest.
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


# Their weights.


class _Weights:
    """``Tensors`` of a KerasHub model. Names are paths of attributes, which do not depend on what Keras numbers."""

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
    """What the rules call the weights of such a model, whatever its head."""
    for rule in dialect.rules(config) if callable(dialect.rules) else dialect.rules:
        for i in range(config.num_layers if "{i}" in rule.theirs else 1):
            yield rule.theirs.replace("{i}", str(i))


def _find(source: Any, backbone: Any, name: str) -> Any:
    """The variable at a path of attributes, indices of lists and names of layers, in the backbone or else in the task;
    None where there is none."""
    variable = functools.reduce(_step, name.split("."), backbone)
    return functools.reduce(_step, name.split("."), source) if variable is None else variable


def _step(parent: Any, part: str) -> Any:
    if part.isdigit():
        return parent[int(part)] if parent is not None and int(part) < len(parent) else None
    named = {layer.name: layer for layer in parent.layers} if isinstance(parent, keras.Model) else {}
    return getattr(parent, part, named.get(part))
