"""Train a small GPT, two BERTs and a ViT on data that needs no download, and export each to ONNX and TFLite.

    attention-zoo demo [--quick] [--output DIR]

The text is Python's own reference (``pydoc_data.topics`` of the standard library), and the images are scikit-learn's
handwritten digits. Every model is a plain Keras model that is trained with ``model.fit`` and evaluated on held-out data
before and after. Every exported file is compared with its Keras model.

Training takes a fixed number of steps with fixed seeds, so the results do not depend on the speed or the load of the
machine. Model sizes and learning rates were chosen with the same held-out data, so the results are slightly better than
those on a new test set would be.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from .report import continuation, draw_attention, markdown, notes, print_table, ship
from .text import paragraph_split, read_topics, shipped, topic_split, train_tokenizer
from .train import FULL, QUICK, stage, train_classifier, train_gpt, train_mlm, train_vit

NEEDED = ("tensorflow", "tf2onnx", "onnxruntime", "ai_edge_litert", "sklearn", "matplotlib", "tokenizers")
REPORTED = ("keras", "tensorflow", "onnxruntime", "ai-edge-litert")
PROMPT = 'The "with" statement is used to'


def run(output: str | os.PathLike[str], quick: bool = False, console: Any = None) -> dict[str, Any]:
    """Train, export and verify the models, and write the files and a report to the folder `output`.

    Args:
        output: the folder, which is created if it does not exist. Files of an earlier run are replaced.
        quick: use smaller models and fewer steps, which takes less than half of the time.
        console: a ``rich.console.Console`` to print on. Default: a new one.

    Returns:
        The contents of ``demo.json``. "passed" is False if any file could not be exported or differs from its Keras
        model.

    Raises:
        ValueError: `output` is a file, a package that the demo needs is missing, or the Keras backend is not
            TensorFlow.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ..runtime.quiet import quiet

    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output: got {output}, which is a file; accepted: a folder, made if it is not there")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"packages: got none of {missing}; accepted: all of pip install 'attention-zoo[demo]'")
    start = time.perf_counter()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # must be set before TensorFlow is imported
    output.mkdir(parents=True, exist_ok=True)
    console = console or Console()
    plan = QUICK if quick else FULL

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        with stage(progress, "import Keras"), quiet():
            import keras

            from .. import zoo
            from ..files import written
        if keras.backend.backend() != "tensorflow":
            raise ValueError(f"KERAS_BACKEND: got {keras.backend.backend()!r}; accepted: 'tensorflow'")
        with stage(progress, "train tokenizer"):
            paragraphs = read_topics()
            read_by_all = set(topic_split(paragraphs)[0]) & set(paragraph_split(paragraphs)[0])
            tokenizer = train_tokenizer([p for p in paragraphs if p in read_by_all], plan.vocab_size)
        gpt = train_gpt(progress, plan, tokenizer, paragraphs)
        mlm = train_mlm(progress, plan, tokenizer, paragraphs)
        classifier = train_classifier(progress, plan, tokenizer, paragraphs, mlm.model)
        vit = train_vit(progress, plan)
        trained = [gpt, mlm, classifier, vit]
        for model in trained:
            if model is not vit:
                model.model.tokenizer = shipped(tokenizer, model.model.config.max_length, framed=model is not gpt)
            zoo.save(model.model, output / model.name)
            ship(progress, model, output)
        with stage(progress, "draw attention.png"):
            figure = draw_attention(vit.model, classifier.model, tokenizer, paragraphs)
            with written(output / "attention.png") as temporary:
                figure.savefig(temporary, format="png")

    onnx = output / "gpt.onnx"
    result = {
        "passed": all(entry["passed"] for model in trained for entry in model.exports),
        "quick": quick,
        "models": [model.to_dict() for model in trained],
        "continuation": {
            "file": onnx.name,
            "prompt": PROMPT,
            "text": "" if "error" in gpt.exports[0] else continuation(onnx, PROMPT, 40),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in REPORTED}},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
        "seconds": round(time.perf_counter() - start, 1),
    }
    table = markdown(result, trained)
    for name, content in (("demo.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n"), ("demo.md", table)):
        with written(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")

    print_table(console, trained)
    for note in notes(trained):
        console.print(note, highlight=False)
    console.print("\nText generated by the ONNX file of the GPT:")
    console.print(f"{PROMPT} … {result['continuation']['text']}\n", markup=False, highlight=False, style="italic")
    console.print(
        f"{result['seconds']:.0f} s. Files, demo.json, demo.md and attention.png are in {output}", markup=False
    )
    return result


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # installed under another name, such as tensorflow-cpu
        return None
