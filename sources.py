"""Resolution of command-line arguments to models, files, texts and ids.

Wrong names and missing files are rejected before Keras or a runtime is imported, which is slow.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .terminal import working


def model_of(name: str) -> Any:
    from . import zoo
    from .runtime.quiet import quiet
    from .zoo.hub import hub_name
    from .zoo.registry import preset

    if Path(name).exists() or hub_name(name) is not None:
        with quiet():
            return zoo.load(name)
    if os.sep in name or name.endswith((".gguf", ".keras", ".safetensors", ".onnx", ".tflite", ".litertlm")):
        raise ValueError(
            f"model: got {name}, which is not there; accepted: a folder, a .gguf or .keras file, org/name of the hub, "
            "or a preset"
        )
    preset(name)  # rejects an unknown name before importing Keras
    with quiet():
        import keras

        keras.utils.set_random_seed(0)  # the same weights for export and verification
        return zoo.create(name)


def any_model(name: str, imports: Iterable[str] = ()) -> Any:
    """Return the model for `name` as ``model_of`` does, but accept any Keras model in a ``.keras`` file.

    Args:
        name: see ``model_of``.
        imports: modules or Python files with the classes of the model, which are imported before it is loaded.
    """
    import_all(imports)
    if name.endswith(".keras") and Path(name).is_file():
        from .runtime.quiet import quiet

        with quiet():
            from .zoo.keras_files import load_any_keras

            return load_any_keras(Path(name))
    return model_of(name)


def described(name: str, imports: Iterable[str] = ()) -> tuple[Any, int]:
    """Return the model for `name` as an exporter sees it, with a family and a signature, and its parameter count."""
    if not name.endswith(".keras"):
        model = model_of(name)
        return model, model.count_params()
    model = any_model(name, imports)
    from .export.frontend.spec import exportable

    return exportable(model), model.count_params()


def import_all(modules: Iterable[str]) -> None:
    """Import modules, by their names or as paths of Python files. The current folder is searched first.

    Raises:
        ValueError: a module does not exist or raises an error.
    """
    for name in modules:
        from .runtime.quiet import quiet

        with quiet():
            import keras  # noqa: F401  (before the module, because it prints messages)
        try:
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            if name.endswith(".py"):
                _import_file(Path(name))
            else:
                importlib.import_module(name)
        except Exception as error:  # a module may raise any error
            raise ValueError(
                f"import: got {name!r}: {type(error).__name__}: {error}; accepted: a module, or a .py file, with the "
                "classes of the model"
            ) from error


def _import_file(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise FileNotFoundError(f"{file} is not a file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)


def runnable(name: str) -> Any:
    """Return an object with a ``generate`` method: the runner of an exported file, or a Keras model.

    `name` is an exported file, a folder that contains one, or a name accepted by ``model_of``.
    """
    from . import export as exporters
    from .export.bundles.folders import file_in
    from .runtime.quiet import quiet

    file = name if is_exported(name) else file_in(name)
    if file is None:
        return model_of(name)
    existing("model", file)
    with quiet():  # LiteRT prints messages as well
        return exporters.load(file)


def is_exported(name: str) -> bool:
    return name.endswith((".onnx", ".tflite", ".litertlm"))


def existing(argument: str, file: Any, *, folders: bool = False) -> Any:
    """Check that `file`, which may be a folder if there are `folders`, exists, and return it. Nothing slow is
    imported."""
    if not (Path(file).is_file() or (folders and Path(file).is_dir())):
        raise ValueError(f"{argument}: got {file}, which is not a file; accepted: an .onnx, .tflite or .litertlm file")
    return file


def samples_of(argument: str, file: Path) -> Any:
    """Return samples: the texts of a text file, or inputs by name from an .npz file that ``numpy.savez`` wrote."""
    if file.suffix != ".npz":
        return lines_of(argument, file)
    import numpy as np

    if not file.is_file():
        raise ValueError(f"{argument}: got {file}, which is not a file; accepted: a text file, or arrays as .npz")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{argument}: got {file}, which holds no arrays; accepted: what numpy.savez wrote") from error


def lines_of(argument: str, file: Path) -> list[str]:
    """Return the non-empty lines of a text file, without surrounding whitespace."""
    if not file.is_file():
        raise ValueError(f"{argument}: got {file}, which is not a file; accepted: a text file")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{argument}: got {file}, which is empty; accepted: texts, one a line")
    return lines


def ids_of(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"ids: got {text!r}; accepted: integers, such as '5 6 7'") from error


def fields_of(argument: str, given: Iterable[str]) -> dict[str, str]:
    """Parse texts such as "author=Ada" into a dict from names to values."""
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or name.strip() in found:
            raise ValueError(f"{argument}: got {text!r}; accepted: each name once with a text, such as 'author=Ada'")
        found[name.strip()] = value.strip()
    return found


def converted(source: str, target: Path, to: str | None, dtype: str | None) -> dict[str, Any]:
    """Write a model in another format, and return facts about it.

    Args:
        source: folder, file or preset of the model.
        target: folder, .keras or .gguf file to write.
        to: "zoo", "huggingface", "keras" or "gguf". Default: that of the suffix .gguf or .keras, or else
            "huggingface".
        dtype: for "huggingface": "float32", "float16" or "bfloat16"; for "gguf": "f32", "f16", "q8_0", ….

    Raises:
        ValueError: an argument is not accepted.
    """
    formats = ("zoo", "huggingface", "keras", "gguf")
    to = to if to is not None else {".gguf": "gguf", ".keras": "keras"}.get(target.suffix, "huggingface")
    if to not in formats:
        raise ValueError(f"to: got {to!r}; accepted: {list(formats)}")
    if target.suffix in (".onnx", ".tflite", ".litertlm"):
        raise ValueError(f"target: got {str(target)!r}, a format of attention-zoo export; accepted: {list(formats)}")
    if to == "keras" and target.suffix != ".keras":
        raise ValueError(f"target: got {str(target)!r}; accepted for keras: a name that ends in .keras")
    if dtype is not None and to not in ("huggingface", "gguf"):
        raise ValueError(f"dtype: got {dtype!r} for {to}; accepted: none, but for huggingface and gguf")
    if to == "gguf" and target.suffix != ".gguf":
        raise ValueError(f"target: got {str(target)!r}; accepted for gguf: a name that ends in .gguf")
    from . import zoo
    from .runtime.quiet import quiet

    started = time.perf_counter()
    with working(f"converting {source}"), quiet():
        model = model_of(source)
        if to == "zoo":
            zoo.save(model, target)
        elif to == "huggingface":
            zoo.to_huggingface(model, target, dtype=dtype)
        elif to == "gguf":
            zoo.to_gguf(model, target, "f32" if dtype is None else dtype)
        else:
            model.save(target)
    size = sum(file.stat().st_size for file in ([target] if target.is_file() else target.rglob("*")) if file.is_file())
    facts = {"source": source, "target": str(target), "format": to, "family": model.family}
    return facts | {
        "parameters": model.count_params(),
        "bytes": size,
        "seconds": round(time.perf_counter() - started, 1),
    }
