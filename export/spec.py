"""What both exporters need of a model: its signature as TensorFlow sees it, its weights, and what a file says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras

from ..generation.text_generation import check_fits
from ..signature import Signature
from ..text.tokenizer import Tokenizer
from ..zoo.base import ZooModel
from .runtime import STOP_TOKENS, TOKENIZER_FILES


def exportable(model: Any) -> ZooModel:
    """`model`, which can be exported.

    Raises:
        ValueError: not one of our models, or Keras runs on another backend than TensorFlow.
    """
    if not isinstance(model, ZooModel):
        raise ValueError(f"model: got {type(model).__name__}; accepted: a model of attention_zoo")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"KERAS_BACKEND: got {keras.backend.backend()!r}; accepted: 'tensorflow', which exports need. Save the "
            "model with attention_zoo.save and load it in a process with KERAS_BACKEND=tensorflow."
        )
    return model


def input_specs(signature: Signature, integers: str) -> list[Any]:
    """TensorFlow's specs of the inputs; named dimensions are open. `integers` is the dtype of ids and masks."""
    import tensorflow as tf

    return [
        tf.TensorSpec(
            [dim if isinstance(dim, int) else None for dim in signature.shape(spec)],
            integers if spec.dtype.startswith("int") else spec.dtype,
            name=spec.name,
        )
        for spec in signature.inputs
    ]


def metadata(model: ZooModel, signatures: Mapping[str, Signature], files: Mapping[str, str]) -> dict[str, str]:
    """What a file says of itself, so that it can be run and verified without the model's code.

    Args:
        signatures: of the graphs in it, by name.
        files: names of those beside it, by the graph in each.
    """
    return {
        "attention_zoo.family": model.family,
        "attention_zoo.config": json.dumps(model.config.to_dict()),
        "attention_zoo.signatures": json.dumps({name: signature.to_dict() for name, signature in signatures.items()}),
        "attention_zoo.files": json.dumps(dict(files)),
    }


def texts(model: ZooModel) -> dict[str, str]:
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
