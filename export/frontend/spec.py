"""What both exporters need of a model: its signature as TensorFlow sees it, its weights, and what a file says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import keras

from ...generation.text_generation import check_fits, end_tokens
from ...runtime.metadata import CONFIG, FAMILY, FILES, SIGNATURES, STOP_TOKENS, TASK, TOKENIZER_FILES
from ...signature import Graph, Signature
from ...text.tokenizer import Tokenizer
from ...zoo.base import ZooModel
from .any_keras.functions import AnyFunctions, named_functions
from .any_keras.model import AnyModel, Foreign
from .huggingface_view import HuggingFaceView

Exportable = ZooModel | Foreign


def exportable(model: Any, input_signature: Any = None) -> Exportable:
    """`model` as the exporters see it: one of ours itself, unless it is to be called in another way than its own.

    Raises:
        ValueError: nothing that can be exported, or Keras runs on another backend than TensorFlow.
    """
    if isinstance(model, HuggingFaceView):
        return cast(Any, model)
    if not (isinstance(model, keras.layers.Layer | Mapping | list | tuple) or callable(model)):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a keras.Model, a layer, or functions")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"KERAS_BACKEND: got {keras.backend.backend()!r}; accepted: 'tensorflow', which exports need. Save the "
            "model with attention_zoo.save and load it in a process with KERAS_BACKEND=tensorflow."
        )
    if isinstance(model, ZooModel) and input_signature is None:
        return model
    if isinstance(model, keras.layers.Layer):
        return AnyModel(model, input_signature)
    return AnyFunctions(named_functions(model), input_signature)


def input_specs(signature: Signature, integers: str | None) -> list[Any]:
    """TensorFlow's specs of the inputs; named dimensions are open. `integers` is the dtype of ids and masks, by default
    each its own."""
    import tensorflow as tf

    return [
        tf.TensorSpec(
            [dim if isinstance(dim, int) else None for dim in signature.shape(spec)],
            integers if integers and spec.dtype.startswith("int") else spec.dtype,
            name=spec.name,
        )
        for spec in signature.inputs
    ]


def metadata(model: Exportable, signatures: Mapping[str, Signature], files: Mapping[str, str]) -> dict[str, str]:
    """What a file says of itself, so that it can be run and verified without the model's code.

    Args:
        signatures: of the graphs in it, by name.
        files: names of those beside it, by the graph in each.
    """
    return {
        FAMILY: model.family,
        CONFIG: json.dumps(model.config.to_dict()),
        SIGNATURES: json.dumps({name: signature.to_dict() for name, signature in signatures.items()}),
        FILES: json.dumps(dict(files)),
        **({TASK: model.task} if model.task else {}),
        **getattr(model, "file_metadata", {}),
    }


def texts(model: Exportable) -> dict[str, str]:
    """What a file has of `model`'s tokenizer, so that it takes texts wherever it goes: the tokenizer's own files, chat
    template included, and what ends a text.

    Raises:
        ValueError: a tokenizer that is not ours, that cannot be written down, or that has more tokens than the model.
    """
    found = {STOP_TOKENS: json.dumps(ends)} if (ends := getattr(model, "stop_tokens", None)) else {}
    if model.tokenizer is None:
        return found
    if not isinstance(model.tokenizer, Tokenizer):
        raise ValueError(
            f"model.tokenizer: got {type(model.tokenizer).__name__}; accepted: an attention_zoo.Tokenizer, or None"
        )
    check_fits(model.tokenizer, model.config.to_dict().get("vocab_size"))
    files = model.tokenizer.to_files(indent=False)
    return found | {TOKENIZER_FILES[name]: text for name, text in files.items()}


def ends_of(model: Exportable, stop_tokens: Any, without: str) -> list[int]:
    """The ids that end a text in another engine: those given, or the model's own.

    Args:
        without: what comes of none, for the error.

    Raises:
        ValueError: none, or an id that is not in the vocabulary.
    """
    ends = end_tokens(getattr(model, "stop_tokens", None) if stop_tokens is None else stop_tokens)
    size = model.config.to_dict()["vocab_size"]
    if bad := [number for number in ends if not 0 <= number < size]:
        raise ValueError(f"stop_tokens: got {bad}; accepted: ids from 0 to {size - 1}")
    if not ends:
        raise ValueError(
            f"stop_tokens: got none, {without}; accepted: an id that ends a text, or a model or tokenizer with an "
            "eos_token"
        )
    return ends


def decoder_graphs(model: Any) -> dict[str, Graph]:
    """Return the graphs of a causal decoder with a key/value cache, for engines that run nothing else.

    Raises:
        ValueError: another kind of model.
    """
    if not getattr(model, "generates", False) or set(graphs := model.graphs("dynamic")) != {"decoder"}:
        raise ValueError(
            f"model: got a {model.family}, which is no causal decoder; accepted: a GPT with head='causal_lm'"
        )
    return graphs
