"""A file's own runner, by its suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..checks import positive_integer
from .onnx.runner import OnnxRunner
from .runner import Runner
from .tflite.runner import TFLiteRunner


def load(path: str | os.PathLike[str], *, threads: int | None = None, providers: Sequence[str] | None = None) -> Runner:
    """A runner for an ``.onnx``, ``.tflite`` or ``.litertlm`` file; the last takes texts only, and runs in LiteRT-LM.

    Args:
        path: a file of ours, or any other of these formats (whose inputs are then checked by shape only).
        threads: CPU threads. Default: the runtime's choice (ONNX Runtime) or every core (LiteRT), of those that this
            process may use.
        providers: of an ONNX file, where it runs, the first that can: names of ONNX Runtime's execution providers, such
            as ``("CUDAExecutionProvider", "CPUExecutionProvider")``. Default: the CPU.

    Raises:
        ValueError: no such file, another suffix, a file the runtime cannot read, or a provider it does not have.
        ImportError: the runtime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path: got {path}, which is not a file; accepted: an .onnx, .tflite or .litertlm file")
    if threads is not None:
        positive_integer("threads", threads)
    if path.suffix not in (".onnx", ".tflite", ".litertlm"):
        raise ValueError(f"path: got {path.name}; accepted: a name that ends in .onnx, .tflite or .litertlm")
    if path.suffix == ".onnx":
        return OnnxRunner(path, threads, providers)
    if providers is not None:
        kind = "TFLite" if path.suffix == ".tflite" else "LiteRT-LM"
        raise ValueError(f"providers: got {providers!r} for a {kind} file; accepted: None")
    if path.suffix == ".litertlm":
        from .litertlm.runner import LiteRTLMRunner  # only where it is asked for

        return LiteRTLMRunner(path, threads)
    return TFLiteRunner(path, threads)
