"""Selection of the runner for a file by its suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..checks import brief, positive_integer
from ..files import finish
from .onnx.runner import OnnxRunner
from .runner import Runner
from .tflite.runner import TFLiteRunner


def load(path: str | os.PathLike[str], *, threads: int | None = None, providers: Sequence[str] | None = None) -> Runner:
    """Load an ``.onnx``, ``.tflite`` or ``.litertlm`` file.

    Args:
        path: A file exported by attention_zoo, or a third-party file in one of these formats. The inputs of a
            third-party file are checked by dtype and shape only.
        threads: The number of CPU threads. Default: ONNX Runtime's own choice, limited to the cores that this process
            may use; for LiteRT and LiteRT-LM, all of these cores.
        providers: For an ONNX file, names of ONNX Runtime's execution providers in order of priority, such as
            ``("CUDAExecutionProvider", "CPUExecutionProvider")``. Default: the CPU.

    Returns:
        An ``OnnxRunner``, a ``TFLiteRunner`` or a ``LiteRTLMRunner``. The last runs in the LiteRT-LM engine and accepts
        texts and conversations only, neither arrays nor token ids.

    Raises:
        ValueError: If the file does not exist, has another suffix or cannot be read by the runtime; if a provider is
            not available or `providers` is given for another format; or if `threads` is not a positive integer.
        ImportError: If the runtime is not installed.
    """
    path = Path(path)
    finish(path.parent, path.name)
    if not path.is_file():
        raise ValueError(f"path: got {path}, which is not a file; accepted: an .onnx, .tflite or .litertlm file")
    if threads is not None:
        positive_integer("threads", threads)
    if path.suffix not in (".onnx", ".tflite", ".litertlm"):
        raise ValueError(f"path: got {path.name}; accepted: a name that ends in .onnx, .tflite or .litertlm")
    try:
        return _opened(path, threads, providers)
    except UnicodeDecodeError as error:  # the runtimes give names and metadata as text
        raise ValueError(f"path: {path} has text that is not UTF-8: {brief(error)}; accepted: UTF-8") from error


def _opened(path: Path, threads: int | None, providers: Sequence[str] | None) -> Runner:
    if path.suffix == ".onnx":
        return OnnxRunner(path, threads, providers)
    if providers is not None:
        kind = "TFLite" if path.suffix == ".tflite" else "LiteRT-LM"
        raise ValueError(f"providers: got {providers!r} for a {kind} file; accepted: None")
    if path.suffix == ".litertlm":
        from .litertlm.runner import LiteRTLMRunner  # imported only if needed

        return LiteRTLMRunner(path, threads)
    return TFLiteRunner(path, threads)
