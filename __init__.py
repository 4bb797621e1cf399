"""Transformer models in Keras, with verified export to ONNX Runtime and LiteRT.

    import attention_zoo as az
    model = az.create("bert-base", num_layers=4)
    az.export.to_onnx(model, "bert.onnx")

Importing this package and listing models imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from ._keras_hook import register_when_keras_is_imported
from .needs import named_extras

if TYPE_CHECKING:
    from . import export, layers, plot, training, zoo
    from .training import callbacks, data, losses, metrics
    from .training.layouts import layout_map
    from .zoo import (
        BERT,
        CLIP,
        GPT,
        BERTConfig,
        CLIPConfig,
        Conversation,
        GPTConfig,
        LayerwiseDecay,
        Seq2Seq,
        Seq2SeqConfig,
        Tokenizer,
        Transformer,
        TransformerConfig,
        ViT,
        ViTConfig,
        WarmupLinearDecay,
        Whisper,
        WhisperConfig,
        create,
        from_keras_hub,
        list_models,
        load,
        save,
        to_gguf,
        to_huggingface,
        to_keras_hub,
    )

__version__ = "0.1.0"
_MODULES = {
    **{name: f".{name}" for name in ("export", "layers", "plot", "training", "zoo")},
    **{name: f".training.{name}" for name in ("callbacks", "data", "losses", "metrics")},
}
_HOMES = {"layout_map": ".training.layouts"}  # of names that are not from ``zoo``
# Literal, because type checkers read it; a test compares it with that of ``zoo``.
__all__ = [
    "BERT",
    "CLIP",
    "GPT",
    "BERTConfig",
    "CLIPConfig",
    "Conversation",
    "GPTConfig",
    "LayerwiseDecay",
    "Seq2Seq",
    "Seq2SeqConfig",
    "Tokenizer",
    "Transformer",
    "TransformerConfig",
    "ViT",
    "ViTConfig",
    "WarmupLinearDecay",
    "Whisper",
    "WhisperConfig",
    "callbacks",
    "create",
    "data",
    "export",
    "from_keras_hub",
    "layers",
    "layout_map",
    "list_models",
    "load",
    "losses",
    "metrics",
    "plot",
    "save",
    "to_gguf",
    "to_huggingface",
    "to_keras_hub",
    "training",
    "zoo",
]


if not TYPE_CHECKING:  # for type checkers every name would exist, misspelled ones too

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            with named_extras():
                return importlib.import_module(_MODULES[name], __name__)
        if __name__ == "attention_zoo" and name in __all__:
            with named_extras():
                return getattr(importlib.import_module(_HOMES.get(name, ".zoo"), __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, whether they have been imported or not."""
    return sorted(__all__)


# Only under the installed name: a test runner may import this file under the name of the checkout's folder too.
if __name__ == "attention_zoo":
    # An editable install reaches the checkout through a link; tracebacks and debuggers name the files themselves.
    __path__[:] = [os.path.realpath(folder) for folder in __path__]
    register_when_keras_is_imported()
