"""Errors for missing packages that name the extra to install. This module uses only Python's standard library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Top-level module -> the extra that installs it; "" for required dependencies of attention-zoo.
EXTRAS = {
    **dict.fromkeys(("huggingface_hub", "jinja2", "keras", "numpy", "rich", "safetensors", "tokenizers", "typer"), ""),
    **dict.fromkeys(("onnx", "onnx_ir", "onnxruntime", "tf2onnx"), "onnx"),
    **dict.fromkeys(("keras_hub", "keras_nlp"), "hub"),
    **dict.fromkeys(("matplotlib", "PIL", "sklearn"), "demo"),
    **dict.fromkeys(("ai_edge_litert", "ai_edge_quantizer"), "litert"),
    **dict.fromkeys(("litert_lm", "litert_lm_builder"), "litertlm"),
    "gguf": "gguf",
    "pyarrow": "data",
    "tensorflow": "tensorflow",
}


@contextmanager
def named_extras() -> Iterator[None]:
    """Name the extra to install if an import fails in this block, or in a function that this decorates.

    Raises:
        ModuleNotFoundError: a package is missing. The message has the ``pip install`` command if an extra is known.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS or "pip install" in str(error):
            raise
        extra = f"[{EXTRAS[name]}]" if EXTRAS[name] else ""
        message = f"{name} is not installed; get it with: pip install 'attention-zoo{extra}'"
        raise ModuleNotFoundError(message, name=error.name) from error
