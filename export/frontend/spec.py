"""What both exporters read from a model: its TensorFlow input specs, graphs, end tokens and file metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import keras

from ...generation.text_generation import check_fits, end_tokens
from ...runtime.metadata import CONFIG, FAMILY, FILES, GENERATION, SIGNATURES, STOP_TOKENS, TASK, TOKENIZER_FILES
from ...signature import Graph, Signature
from ...text.tokenizer import Tokenizer
from ...zoo.base import ZooModel
from .any_keras.functions import AnyFunctions, named_functions
from .any_keras.model import AnyModel, Foreign
from .huggingface_view import HuggingFaceView

Exportable = ZooModel | Foreign


def exportable(model: Any, input_signature: Any = None) -> Exportable:
    """Return `model` with the interface that the exporters expect.

    A model of this package is returned unchanged, unless there is an `input_signature`. Other Keras models, layers and
    functions are wrapped.

    Args:
        model: a ``keras.Model``, a layer, or one or several functions of tensors.
        input_signature: the inputs to export a Keras model or function with; see ``AnyModel`` and ``AnyFunctions``.

    Raises:
        ValueError: `model` cannot be exported, or Keras uses another backend than TensorFlow.
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
    """Return a ``tf.TensorSpec`` for each input; the size of a named dimension without a fixed size is None.

    Args:
        signature: of the graph.
        integers: a dtype for all signed integer inputs, such as ids and masks. None: the dtype in `signature`.
    """
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
    """Return the metadata of a file, which allows it to be run and verified without the code of the model.

    Args:
        model: the model that is exported.
        signatures: signatures of the graphs in the file, by name of the graph.
        files: names of the other files of the model, by the graph in each.
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
    """Return the metadata with the files of `model`'s tokenizer, including the chat template, its end tokens, and the
    defaults of its ``generate``.

    Raises:
        ValueError: the tokenizer is not an ``attention_zoo.Tokenizer``, cannot be written to files, or has more tokens
            than the model.
    """
    found = {STOP_TOKENS: json.dumps(ends)} if (ends := getattr(model, "stop_tokens", None)) else {}
    if defaults := getattr(model, "generation_defaults", None):
        entries = {name: value for name, value in defaults.items() if name != "tokenizer"}
        found[GENERATION] = json.dumps(entries, sort_keys=True)
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
    """Return the ids of the end tokens for another engine: `stop_tokens`, or those of the model if that is None.

    Args:
        model: the model that is exported.
        stop_tokens: an id, a list of ids, or None.
        without: what would happen without end tokens, for the error message.

    Raises:
        ValueError: there are no end tokens, or an id is not in the vocabulary.
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
    """Return the graphs of a causal decoder with a key/value cache, for engines that only run such models.

    Raises:
        ValueError: `model` is not a causal decoder.
    """
    if not getattr(model, "generates", False) or set(graphs := model.graphs("dynamic")) != {"decoder"}:
        raise ValueError(
            f"model: got a {model.family}, which is no causal decoder; accepted: a GPT with head='causal_lm'"
        )
    return graphs
