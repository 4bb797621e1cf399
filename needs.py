"""Packages that are not installed: the error says what to install. Python's standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Top-level module to the extra that brings it; "" for what attention-zoo itself depends on.
EXTRAS = {
    **dict.fromkeys(("jinja2", "keras", "numpy", "rich", "safetensors", "tokenizers", "typer"), ""),
    **dict.fromkeys(("onnx", "onnx_ir", "onnxruntime", "tf2onnx"), "onnx"),
    **dict.fromkeys(("keras_hub", "keras_nlp"), "hub"),
    **dict.fromkeys(("matplotlib", "PIL", "sklearn"), "demo"),
    **dict.fromkeys(("ai_edge_litert", "ai_edge_quantizer"), "litert"),
    **dict.fromkeys(("litert_lm", "litert_lm_builder"), "litertlm"),
    "gguf": "gguf",
    "tensorflow": "tensorflow",
}


@contextmanager
def named_extras() -> Iterator[None]:
    """Imports in this block, or in a function that it decorates, that fail for want of a package name the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS or "pip install" in str(error):
            raise
        extra = f"[{EXTRAS[name]}]" if EXTRAS[name] else ""
        message = f"{name} is not installed; get it with: pip install 'attention-zoo{extra}'"
        raise ModuleNotFoundError(message, name=error.name) from error
