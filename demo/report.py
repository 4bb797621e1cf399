"""Export of the trained models, the figure of their attention weights, and the tables of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..plot import rollout
from .text import GROUPS, Paragraph, encode_sentences, labelled_sentences
from .train import Trained, digits, stage


def ship(progress: Any, trained: Trained, output: Path) -> None:
    """Export a model to ONNX and TFLite, compare each file with the Keras model, and measure its latency.

    The results are appended to ``trained.exports``.
    """
    from .. import export
    from ..runtime.quiet import quiet

    sizes = {} if trained.model.family == "vit" else {"sequence": trained.model.config.max_length}
    static = {"sequence_length": sizes["sequence"]} if sizes else {}  # TFLite files have static shapes
    for format in ("onnx", "tflite"):
        path = output / f"{trained.name}.{format}"
        with stage(progress, f"export {path.name}"), quiet():
            try:
                if format == "onnx":
                    result = export.to_onnx(trained.model, path)
                else:
                    result = export.to_tflite(trained.model, path, **static)
                report = export.verify(trained.model, path)
                figures = export.benchmark(path, batch=1, **sizes)
            except export.ExportError as error:  # the other files must be reported nevertheless
                trained.exports.append({"format": format, "path": path.name, "passed": False, "error": str(error)})
                continue
            trained.exports.append(
                {
                    "format": result.format,
                    "path": path.name,
                    "bytes": result.bytes,
                    "seconds": round(result.seconds, 2),
                    "median_ms": round(figures.median_ms, 3),
                    "greatest_difference": float(report.greatest_difference),
                    "passed": bool(report.passed),
                }
            )


def continuation(path: Path, prompt: str, new_tokens: int) -> str:
    """Return the text that the exported file generates after `prompt` with greedy decoding, on one line."""
    from .. import export

    return " ".join(export.load(path).generate_text(prompt, max_new_tokens=new_tokens).split())


def attentions_of(model: Any, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the logits, and the attention weights of every block, (1, heads, query, key)."""
    result = model(inputs, output_attentions=True)
    return np.asarray(result["logits"]), [np.asarray(weights) for weights in result["attentions"]]


def draw_attention(vit: Any, classifier: Any, tokenizer: Any, paragraphs: Sequence[Paragraph]) -> Any:
    """Return a figure of the attention weights of the models for a digit and a sentence, both held out."""
    from matplotlib.figure import Figure  # not pyplot, which would select a backend for the whole process

    figure = Figure(figsize=(13, 9.2), layout="constrained", dpi=110)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.8, 6.4))
    _draw_digit(vit, parts[0])
    _draw_sentence(classifier, tokenizer, paragraphs, parts[1])
    return figure


def _draw_digit(vit: Any, figure: Any) -> None:
    _, images, _, labels = digits()
    index = int(np.flatnonzero(labels == 3)[0])
    image = images[index]
    logits, attentions = attentions_of(vit, {"pixel_values": image[None]})
    grid = vit.config.image_size // vit.config.patch_size

    def on_patches(weights: np.ndarray) -> np.ndarray:
        return weights[0, 1:].reshape(grid, grid)  # from the class token to the patches

    maps = {"all blocks (rollout)": on_patches(rollout([weights[0] for weights in attentions]))}
    maps |= {f"last block, head {i + 1}": on_patches(weights) for i, weights in enumerate(attentions[-1][0])}
    figure.suptitle(f"ViT: attention of the class token. A 3 of the test set, classified as {logits.argmax()}")
    axes: Any = figure.subplots(1, 1 + len(maps))
    axes[0].set_title("image", fontsize=10)
    for axis, (title, weights) in zip(axes[1:], maps.items(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.imshow(weights, cmap="inferno", extent=(0, 1, 0, 1), interpolation="bicubic", zorder=1)
    for axis in axes:
        overlaid = axis is not axes[0]
        axis.imshow(image[..., 0], cmap="gray", extent=(0, 1, 0, 1), alpha=0.4 if overlaid else 1.0, zorder=2)
        axis.set_xticks([])
        axis.set_yticks([])


def _draw_sentence(classifier: Any, tokenizer: Any, paragraphs: Sequence[Paragraph], figure: Any) -> None:
    _, test = labelled_sentences(paragraphs)
    names = list(GROUPS)
    encoded = [tokenizer.encode(text).ids for text, _ in test]
    # Of the sentences that fit in the figure and are classified correctly, the one with the fewest tokens per word.
    inputs = encode_sentences(tokenizer, [text for text, _ in test], classifier.config.max_length)
    right = classifier.predict_on_batch(inputs).argmax(axis=-1) == [label for _, label in test]
    index = min(
        range(len(test)),
        key=lambda i: (not right[i], not 12 <= len(encoded[i]) <= 22, len(encoded[i]) / len(test[i][0].split())),
    )
    kept = int(inputs["attention_mask"][index].sum())
    ids = inputs["input_ids"][index : index + 1, :kept]
    logits, attentions = attentions_of(classifier, {"input_ids": ids})
    tokens = [tokenizer.decode([i], skip_special_tokens=False).replace(" ", "␣") for i in ids[0]]

    heads = np.concatenate(attentions)  # (blocks, heads, query, key)
    certainty = np.sum(heads * np.log(heads + 1e-9), axis=-1).mean(axis=-1)  # negative entropy
    block, head = np.unravel_index(certainty.argmax(), certainty.shape)
    maps = {
        "last block, mean over heads": heads[-1].mean(axis=0),
        f"head with the lowest entropy: block {block + 1}, head {head + 1}": heads[block, head],
    }
    label, guess = names[test[index][1]], names[int(logits.argmax())]
    figure.suptitle(f"BERT: attention of rows to columns. Held-out sentence on: {label}; classified as: {guess}")
    axes = figure.subplots(1, 2)
    for axis, (title, weights) in zip(axes, maps.items(), strict=True):
        shown = axis.imshow(weights, cmap="viridis", vmin=0)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(kept), tokens, rotation=90, fontsize=9)
        axis.set_yticks(range(kept), tokens, fontsize=9)
        figure.colorbar(shown, ax=axis, shrink=0.6, label="attention weight")


def change(model: Trained) -> str:
    """Return the metric before and after training as a text."""
    places = 1 if model.metric == "perplexity" else 3
    return f"{model.before:.{places}f} → {model.after:.{places}f}"


def file_cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the table cells of one file: format, MB, seconds of export, latency in ms, difference and verdict."""
    if "error" in entry:
        return (entry["format"], "", "", "", "", "FAIL")
    return (
        entry["format"],
        f"{entry['bytes'] / 1e6:.2f}",
        f"{entry['seconds']:.1f}",
        f"{entry['median_ms']:.2f}",
        f"{entry['greatest_difference']:.0e}",
        "PASS" if entry["passed"] else "FAIL",
    )


def print_table(console: Any, trained: Sequence[Trained]) -> None:
    """Print the table of models and files, and the errors of exports that failed."""
    from rich.table import Table

    table = Table(title="Models trained, exported and compared with Keras", box=None, padding=(0, 1, 1, 0))
    for column in ("model", "held-out metric", "file"):
        table.add_column(column, no_wrap=True)
    for column in ("MB", "s", "ms", "max diff", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    colours: Any = {"PASS": "[green]PASS[/]", "FAIL": "[bold red]FAIL[/]"}
    for model in trained:  # one row per model, in which each file has a line
        files = [list(column) for column in zip(*map(file_cells, model.exports), strict=True)]
        cells: list[str] = ["\n".join(colours.get(cell, cell) for cell in column) for column in files]
        parameters = f"{model.model.count_params():,} parameters"
        table.add_row(f"[bold]{model.title}[/]\n{parameters}", f"{model.metric}\n{change(model)}", *cells)
    console.print(table)
    console.print(
        "s: export time. ms: one row of full length, or one image. max diff: largest difference from Keras.\n",
        highlight=False,
    )
    for entry in (entry for model in trained for entry in model.exports if "error" in entry):
        console.print(f"{entry['path']}: {entry['error']}", markup=False, style="red")


def markdown(result: Mapping[str, Any], trained: Sequence[Trained]) -> str:
    """Return the report in Markdown, as it is written to ``demo.md``."""
    lines = [
        "# attention-zoo demo",
        "",
        "| model | parameters | held-out metric | file | MB | export s | ms | difference from Keras | verdict |",
        f"|{'---|' * 9}",
        *(
            f"| {m.title} | {m.model.count_params():,} | {m.metric} {change(m)} | {' | '.join(file_cells(entry))} |"
            for m in trained
            for entry in m.exports
        ),
        "",
        *(f"- {note}" for note in notes(trained)),
        "",
        f"Text generated by the ONNX file of the GPT after *{result['continuation']['prompt']}*:",
        "",
        f"> {result['continuation']['text']}",
        "",
        "![Attention weights of the models](attention.png)",
        "",
        "The sentence is a held-out one that the classifier classifies correctly, if there is one. The digit is the "
        "first 3 of the test set.",
        "",
        f"{result['seconds']:.0f} s on {result['machine']['cores']} cores ({result['machine']['processor']}); "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def notes(trained: Sequence[Trained]) -> Iterator[str]:
    """Yield a line for each model that explains its held-out data and its metric."""
    for model in trained:
        details = model.details
        if model.name == "gpt":
            before, after = details["bits_per_byte_before"], details["bits_per_byte_after"]
            yield f"{model.title}: whole topics held out; {before:.2f} → {after:.2f} bits per byte."
        elif model.name == "bert-mlm":
            yield (
                f"{model.title}: one paragraph in five held out; always predicting the most frequent token gives "
                f"an accuracy of {details['majority_baseline']:.3f}."
            )
        elif model.name == "bert-classifier":
            yield (
                f"{model.title}: classes {', '.join(details['classes'])}; {details['test_sentences']} held-out "
                "sentences; always predicting the most frequent class gives an accuracy of "
                f"{details['majority_baseline']:.3f}."
            )
        else:
            everything = details["test_images"] + details["train_images"]
            yield f"{model.title}: {details['test_images']} of {everything} images held out."
