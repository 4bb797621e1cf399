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
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from ..text.tokenizer import Tokenizer
from ..weights.fill import assign, collect, fill
from ..weights.rules import Dialect, Field, Rule
from ..weights.tensors import Shape
from ..weights.transforms import SAME, Transform
from .base import ZooModel
from .registry import family

TASK = "task."  # stands before the options of a task, those of its backbone being bare


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
    name, dialect = KINDS[kind]
    cls = family(name)
    backbone = source if head is None else source.backbone
    raw = _options(source, backbone)
    if "dropout" in overrides:
        raw.pop(f"{TASK}dropout", None)  # it need not agree with the backbone's any more
    values = {**dialect.config(raw, ()), "head": head, **_special_tokens(source, cls), **overrides}
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
        kind: one of ``KINDS``, such as "Llama3". Default: the first that can hold the config.

    Raises:
        ValueError: another object, an unknown `kind`, a config that theirs cannot hold, or a model with adapters.
    """
    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a model of attention_zoo")
    kinds = [known for known, (name, _) in KINDS.items() if name == model.family]
    if not kinds:
        families = sorted({name for name, _ in KINDS.values()})
        raise ValueError(f"model: got a {model.family}; accepted: one of {families}")
    if kind is not None and kind not in kinds:
        raise ValueError(f"kind: got {kind!r}; accepted for a {model.family}: {kinds}")
    kind = _kind_for(model.config, [kind] if kind else kinds)
    dialect, head = KINDS[kind][1], model.config.head
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
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError("to_keras_hub needs KerasHub: pip install 'attention-zoo[hub]'") from error
    return keras_hub.models


# Their config.


def _kind_of(source: Any) -> tuple[str, str | None]:
    """The kind and the ``head`` of a KerasHub model. A subclass may compute something else, and is not known."""
    classes = {cls: (kind, head) for kind, (_, dialect) in KINDS.items() for head, cls in dialect.heads.items()}
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


# Fields of ours that mean something under these heads only.
_OF_HEADS: dict[str, tuple[str | None, ...]] = {
    "num_classes": ("sequence_classification", "image_classification"),
    "pooler": (None,),
    "pooler_activation": (None, "sequence_classification"),
    "pooling": ("sentence_embedding",),
    "normalize": ("sentence_embedding",),
    "classifier": ("image_classification",),
    "transform_activation": ("masked_lm",),
    "transform_norm_epsilon": ("masked_lm",),
    "tie_embeddings": ("causal_lm",),
}
# Fields that no option of theirs holds, and that no result at their sizes depends on.
_UNHELD = ("initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "interpolate_antialias")


def _kind_for(config: Any, kinds: list[str]) -> str:
    """The first kind that gives `config` back when it is written and read.

    Raises:
        ValueError: none does; says what stands in the way of the nearest.
    """
    problems = {kind: _problems(config, KINDS[kind][1]) for kind in kinds}
    kind = min(kinds, key=lambda kind: len(problems[kind]))
    if problems[kind]:
        raise ValueError(f"{'; '.join(problems[kind])}, for KerasHub's {kind}")
    return kind


def _problems(config: Any, dialect: Dialect) -> list[str]:
    if config.head not in dialect.heads:
        return [f"head: got {config.head!r}; accepted: {list(dialect.heads)}"]
    try:
        values = {**dialect.config(dialect.foreign(config), ()), "head": config.head}
        read = type(config).from_dict(values).to_dict()
    except ValueError as error:
        return [str(error)]
    silent = {*_UNHELD, *(name for name, heads in _OF_HEADS.items() if config.head not in heads)}
    if "max_length" not in {entry.ours for entry in dialect.fields} and "max_length" in read and "position" in read:
        silent.add("max_length")
    return [
        f"{name}: got {value!r}; accepted: {read[name]!r}"
        for name, value in config.to_dict().items()
        if value != read[name] and name not in silent
    ]


def _accept(raw: Mapping[str, Any], **accepted: Any) -> None:
    """Raise ValueError for an option of a task that has another value than the one we know."""
    for name, value in accepted.items():
        if (given := raw.get(TASK + name)) is not None and given != value:
            raise ValueError(f"{name}: got {given!r}; accepted: {value!r}")


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


def _split_heads(axis: int, heads: int) -> Transform:
    """One axis (heads · dim) here is two (heads, dim) there, as of an EinsumDense."""

    def shape(ours: Shape) -> Shape:
        return (*ours[:axis], heads, ours[axis] // heads, *ours[axis + 1 :])

    return Transform(
        lambda theirs, shapes: [theirs.reshape(shapes[0])],
        lambda ours: ours[0].reshape(shape(ours[0].shape)),
        lambda shapes: shape(shapes[0]),
    )


_BATCHED = Transform(lambda theirs, _: [theirs[None]], lambda ours: ours[0][0], lambda shapes: shapes[0][1:])


def _dense(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    return tuple(Rule(f"{theirs}.{part}", f"{ours}/{part}", SAME, outside) for part in ("kernel", "bias"))  # pyright: ignore[reportReturnType]


def _layer_norm(theirs: str, ours: str, *, outside: bool = False) -> tuple[Rule, Rule]:
    return tuple(Rule(f"{theirs}.{part}", f"{ours}/{part}", SAME, outside) for part in ("gamma", "beta"))  # pyright: ignore[reportReturnType]


def _attention(theirs: str, num_heads: int, num_kv_heads: int) -> Iterator[Rule]:
    """Keras' MultiHeadAttention and its like."""
    for part, heads in (("query", num_heads), ("key", num_kv_heads), ("value", num_kv_heads)):
        dense, ours = f"{theirs}._{part}_dense", f"block_{{i}}/attention/{part}"
        yield Rule(f"{dense}.kernel", f"{ours}/kernel", _split_heads(1, heads))
        yield Rule(f"{dense}.bias", f"{ours}/bias", _split_heads(0, heads))
    yield Rule(f"{theirs}._output_dense.kernel", "block_{i}/attention/output/kernel", _split_heads(0, num_heads))
    yield Rule(f"{theirs}._output_dense.bias", "block_{i}/attention/output/bias")


def _transformer_layers(c: Any) -> Iterator[Rule]:
    """KerasHub's TransformerEncoder and TransformerDecoder."""
    layer = "transformer_layers.{i}."
    yield from _attention(f"{layer}_self_attention_layer", c.num_heads, c.num_heads)
    yield from _layer_norm(f"{layer}_self_attention_layer_norm", "block_{i}/attention_norm")
    yield from _layer_norm(f"{layer}_feedforward_layer_norm", "block_{i}/feedforward_norm")
    yield from _dense(f"{layer}_feedforward_intermediate_dense", "block_{i}/feedforward/up")
    yield from _dense(f"{layer}_feedforward_output_dense", "block_{i}/feedforward/down")


# BERT.


def _read_bert(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    _accept(raw, activation=None, dropout=raw["dropout"])
    # Under a body with GELU by tanh and an epsilon of 1e-12.
    transform = {"transform_activation": "gelu", "transform_norm_epsilon": 1e-5}
    modes = {ours: theirs for theirs, ours in _POOLING_MODES.items()}
    return {
        **(transform if raw["architectures"] == ["BertMaskedLM"] else {}),
        "attention_dropout": raw["dropout"],
        "num_classes": raw.get(f"{TASK}num_classes", 2),
        "pooling": modes[raw.get(f"{TASK}pooling_mode", "mean")],
        "normalize": raw.get(f"{TASK}normalize", False),
    }


_POOLING_MODES = {"mean": "mean", "first": "cls", "max": "max"}


def _write_bert(c: Any) -> dict[str, Any]:
    if not c.type_vocab_size:
        raise ValueError("type_vocab_size: got 0; accepted: at least 1")
    of_task: dict[str | None, dict[str, Any]] = {
        "sequence_classification": {"num_classes": c.num_classes, "dropout": c.dropout},
        "sentence_embedding": {"pooling_mode": _POOLING_MODES[c.pooling], "normalize": c.normalize},
    }
    return {TASK + name: value for name, value in of_task.get(c.head, {}).items()}


_BERT = Dialect(
    fields=(
        Field("vocabulary_size", "vocab_size"),
        Field("num_layers", "num_layers"),
        Field("num_heads", "num_heads"),
        Field("hidden_dim", "hidden_dim"),
        Field("intermediate_dim", "intermediate_dim"),
        Field("dropout", "dropout"),
        Field("max_sequence_length", "max_length"),
        Field("num_segments", "type_vocab_size"),
    ),
    fixed={"activation": "gelu_tanh", "norm_epsilon": 1e-12},
    read=_read_bert,
    write=_write_bert,
    rules=lambda c: (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("position_embedding.position_embeddings", "positions/embeddings"),
        Rule("segment_embedding.embeddings", "token_types/embeddings"),
        *_layer_norm("embeddings_layer_norm", "embedding_norm"),
        *_transformer_layers(c),
        *_dense("pooled_dense", "pooler"),
        *_dense("output_dense", "classifier", outside=True),
        *_dense("masked_lm_head._intermediate_dense", "transform", outside=True),
        *_layer_norm("masked_lm_head._intermediate_layer_norm", "transform_norm", outside=True),
        Rule("masked_lm_head._bias", "output_bias", outside=True),
        *_dense("span", "span", outside=True),  # which no task has, but may be put on top of one's body
    ),
    heads={
        None: "BertBackbone",
        "masked_lm": "BertMaskedLM",
        "sequence_classification": "BertTextClassifier",
        "sentence_embedding": "BertTextEmbedder",
    },
    prefix="backbone.",
    ignored=(r"^pooled_dense\.",),  # which only some of our heads have
)


# GPT-2.

_GPT2 = Dialect(
    fields=tuple(entry for entry in _BERT.fields if entry.ours != "type_vocab_size"),
    fixed={
        "position": "learned",
        "norm": "layer_norm",
        "norm_epsilon": 1e-5,
        "activation": "gelu_tanh",
        "use_bias": True,
        "tie_embeddings": True,
    },
    read=lambda raw, _: {"attention_dropout": raw["dropout"]},
    rules=lambda c: (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("position_embedding.position_embeddings", "positions/embeddings"),
        *_transformer_layers(c),
        *_layer_norm("layer_norm", "final_norm"),
    ),
    heads={None: "GPT2Backbone", "causal_lm": "GPT2CausalLM"},
    prefix="backbone.",
)


# Llama and its like.


def _llama_rules(c: Any) -> tuple[Rule, ...]:
    layer, attention = "transformer_layers.{i}.", "transformer_layers.{i}._self_attention_layer"
    return (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("token_embedding.reverse_embeddings", "lm_head/kernel", outside=True),
        *_attention(attention, c.num_heads, c.num_kv_heads),
        Rule(f"{attention}._query_dense_layer_norm.scale", "block_{i}/attention/query_norm/scale"),
        Rule(f"{attention}._key_dense_layer_norm.scale", "block_{i}/attention/key_norm/scale"),
        Rule(f"{layer}_self_attention_layernorm.scale", "block_{i}/attention_norm/scale"),
        Rule(f"{layer}_feedforward_layernorm.scale", "block_{i}/feedforward_norm/scale"),
        *_dense(f"{layer}_feedforward_gate_dense", "block_{i}/feedforward/gate"),
        *_dense(f"{layer}_feedforward_intermediate_dense", "block_{i}/feedforward/up"),
        *_dense(f"{layer}_feedforward_output_dense", "block_{i}/feedforward/down"),
        Rule("layer_norm.scale", "final_norm/scale"),
    )


_LLAMA3_SCALING = {  # ours: theirs
    "factor": "rope_frequency_adjustment_factor",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
    "original_max_position_embeddings": "rope_pretraining_sequence_length",
}


def _read_llama(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    given = {ours: raw.get(theirs) for ours, theirs in _LLAMA3_SCALING.items()}
    if given["factor"] is None:
        return {"rope_scaling": None, "max_length": 2048}
    length = int(given["original_max_position_embeddings"] * given["factor"])
    return {"rope_scaling": {"rope_type": "llama3", **given}, "max_length": length}


def _write_llama(c: Any) -> dict[str, Any]:
    scaling = c.rope_scaling or {}
    if scaling.get("rope_type", "llama3") != "llama3":
        raise ValueError(f"rope_scaling: got rope_type {scaling['rope_type']!r}; accepted: 'llama3', or None")
    return {theirs: scaling.get(ours) for ours, theirs in _LLAMA3_SCALING.items()}


def _read_linear(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    factor = raw["rope_scaling_factor"]
    scaling = None if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {"rope_scaling": scaling, "max_length": 2048}


def _write_linear(c: Any) -> dict[str, Any]:
    scaling = c.rope_scaling or {"rope_type": "linear", "factor": 1.0}
    if scaling["rope_type"] != "linear":
        raise ValueError(f"rope_scaling: got rope_type {scaling['rope_type']!r}; accepted: 'linear', or None")
    return {"rope_scaling_factor": scaling["factor"]}


_LLAMA = Dialect(
    fields=(
        Field("vocabulary_size", "vocab_size"),
        Field("num_layers", "num_layers"),
        Field("num_query_heads", "num_heads"),
        Field("num_key_value_heads", "num_kv_heads"),
        Field("hidden_dim", "hidden_dim"),
        Field("intermediate_dim", "intermediate_dim"),
        Field("rope_max_wavelength", "rope_theta"),
        Field("layer_norm_epsilon", "norm_epsilon"),
        Field("dropout", "dropout"),
        Field("tie_word_embeddings", "tie_embeddings"),
    ),
    fixed={"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False},
    demanded={"rope_position_scaling_factor": 1.0},  # their LlamaRotaryEmbedding computes the same for any value
    read=_read_llama,
    write=_write_llama,
    rules=_llama_rules,
    heads={None: "LlamaBackbone", "causal_lm": "LlamaCausalLM"},
    prefix="backbone.",
    ignored=(r"^token_embedding\.reverse_embeddings$",),  # without a head
)

_QWEN3 = replace(
    _LLAMA,
    fields=(*_LLAMA.fields, Field("head_dim", "head_dim", None), Field("sliding_window_size", "sliding_window", None)),
    fixed={**_LLAMA.fixed, "qk_norm": True},
    demanded={},
    read=_read_linear,
    write=_write_linear,
    heads={None: "Qwen3Backbone", "causal_lm": "Qwen3CausalLM"},
)

_QWEN = replace(
    _QWEN3,
    fields=_LLAMA.fields,
    fixed={**_LLAMA.fixed, "use_qkv_bias": True},
    read=lambda raw, _: {
        **_read_linear(raw, _),
        "sliding_window": raw["sliding_window_size"] if raw["use_sliding_window_attention"] else None,
    },
    write=lambda c: {
        **_write_linear(c),
        "use_sliding_window_attention": c.sliding_window is not None,
        "sliding_window_size": c.sliding_window or 32768,
    },
    heads={None: "QwenBackbone", "causal_lm": "QwenCausalLM"},
)

_MISTRAL = replace(
    _LLAMA,
    fields=(
        *(entry for entry in _LLAMA.fields if entry.ours != "tie_embeddings"),
        Field("sliding_window", "sliding_window", None),
    ),
    fixed={**_LLAMA.fixed, "tie_embeddings": False},
    demanded={},
    read=lambda raw, _: {**_read_linear(raw, _), "head_dim": raw["head_dim"]},
    write=lambda c: {
        **_write_linear(c),
        "head_dim": None if c.head_dim * c.num_heads == c.hidden_dim else c.head_dim,
    },
    heads={None: "MistralBackbone", "causal_lm": "MistralCausalLM"},
)


# ViT.


def _read_vit(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    _accept(raw, activation=None, dropout=0.0, pooling="token")
    if (width := raw.get(f"{TASK}intermediate_dim")) is not None:
        raise ValueError(f"intermediate_dim: got {width} for the head; accepted: None")
    height, width, channels = raw["image_shape"]
    patches = raw["patch_size"]
    patches = (patches, patches) if isinstance(patches, int) else tuple(patches)
    for name, given, sides in (("image_shape", raw["image_shape"], {height, width}), ("patch_size", patches, patches)):
        if len(set(sides)) != 1:
            raise ValueError(f"{name}: got {tuple(given)}; accepted: a square")
    sizes = {"image_size": height, "patch_size": patches[0], "num_channels": channels}
    return {**sizes, "num_classes": raw.get(f"{TASK}num_classes", 1000)}


def _write_vit(c: Any) -> dict[str, Any]:
    sizes = {
        "image_shape": (c.image_size, c.image_size, c.num_channels),
        "patch_size": (c.patch_size, c.patch_size),
    }
    return {**sizes, f"{TASK}num_classes": c.num_classes}


def _vit_rules(c: Any) -> tuple[Rule, ...]:
    front, layer = "vit_patching_and_embedding.", "vit_encoder.encoder_layers.{i}."
    return (
        Rule(f"{front}patch_embedding.kernel", "embedding/kernel"),
        Rule(f"{front}patch_embedding.bias", "embedding/bias"),
        Rule(f"{front}class_token", "embedding/class_token"),
        Rule(f"{front}position_embedding.embeddings", "embedding/positions", _BATCHED),
        *_layer_norm(f"{layer}layer_norm_1", "block_{i}/attention_norm"),
        *_attention(f"{layer}mha", c.num_heads, c.num_heads),
        *_layer_norm(f"{layer}layer_norm_2", "block_{i}/feedforward_norm"),
        *_dense(f"{layer}mlp.dense_1", "block_{i}/feedforward/up"),
        *_dense(f"{layer}mlp.dense_2", "block_{i}/feedforward/down"),
        *_layer_norm("vit_encoder.layer_norm", "final_norm"),
        *_dense("output_dense", "classifier", outside=True),
    )


_VIT = Dialect(
    fields=(
        Field("num_layers", "num_layers"),
        Field("num_heads", "num_heads"),
        Field("hidden_dim", "hidden_dim"),
        Field("mlp_dim", "intermediate_dim"),
        Field("dropout_rate", "dropout"),
        Field("attention_dropout", "attention_dropout"),
        Field("layer_norm_epsilon", "norm_epsilon"),
    ),
    fixed={"activation": "gelu"},
    demanded={
        "use_mha_bias": True,
        "use_mlp_bias": True,
        "use_class_token": True,
        "use_patch_bias": True,
        "data_format": "channels_last",
    },
    read=_read_vit,
    write=_write_vit,
    rules=_vit_rules,
    heads={None: "ViTBackbone", "image_classification": "ViTImageClassifier"},
    prefix="backbone.",
)

# The family and the dialect of every kind; where several can hold a config, the first is taken.
KINDS: dict[str, tuple[str, Dialect]] = {
    "Bert": ("bert", _BERT),
    "GPT2": ("gpt", _GPT2),
    "Llama": ("gpt", _LLAMA),
    "Llama3": ("gpt", replace(_LLAMA, heads={None: "Llama3Backbone", "causal_lm": "Llama3CausalLM"})),
    "Mistral": ("gpt", _MISTRAL),
    "Qwen": ("gpt", _QWEN),
    "Qwen3": ("gpt", _QWEN3),
    "ViT": ("vit", _VIT),
}
