"""The command line. Exit codes: 0 fine, 1 a check failed, 2 the user's mistake, told in one line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

app = typer.Typer(
    name="attention-zoo",
    help="Transformers in Keras, shipped to ONNX Runtime and LiteRT, and proved right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[str, typer.Argument(help="A folder written by attention_zoo.save, or a preset (random weights).")]


@app.command(name="list")
def list_(pattern: Annotated[str, typer.Argument(help="A shell pattern, such as 'vit*'.")] = "*", json_: Json = False):
    """Name the presets."""
    from .zoo.registry import list_models, preset

    names = list_models(pattern)
    if json_:
        return _print_json(names)
    table = Table("name", "family", "parameters", "source")
    for name in names:
        row = preset(name)
        table.add_row(name, row.family, f"{row.parameters:,}", row.source)
    console.print(table)


@app.command()
def info(name: Annotated[str, typer.Argument(help="A preset, or a folder written by save.")], json_: Json = False):
    """Show a preset's or a saved model's config, inputs and outputs."""
    model = _model(name)
    signature = model.export_spec().to_dict()
    facts = {"name": name, "family": model.family, "parameters": model.count_params()}
    facts |= {"config": model.config.to_dict(), "inputs": signature["inputs"], "outputs": signature["outputs"]}
    if json_:
        return _print_json(facts)
    table = Table(name, f"{facts['family']}, {facts['parameters']:,} parameters")
    for field, value in facts["config"].items():
        table.add_row(field, str(value))
    for side in ("inputs", "outputs"):
        for spec in facts[side]:
            optional = ", optional" if spec["optional"] else ""
            table.add_row(
                f"{side[:-1]} {spec['name']}", f"{spec['dtype']} ({', '.join(map(str, spec['dims']))}){optional}"
            )
    console.print(table)


@app.command()
def export(
    model: Model,
    file: Annotated[Path, typer.Argument(help="Where to, ending in .onnx or .tflite.")],
    batch_size: Annotated[int, typer.Option(help="TFLite: rows per call.")] = 1,
    sequence_length: Annotated[int | None, typer.Option(help="TFLite: tokens per row.")] = None,
    image_size: Annotated[int | None, typer.Option(help="TFLite: side of the image in pixels.")] = None,
    json_: Json = False,
):
    """Write a model as ONNX or TFLite, checked against Keras."""
    from . import export as exporters

    if file.suffix not in (".onnx", ".tflite"):
        raise ValueError(f"file: got {str(file)!r}; accepted: a name that ends in .onnx or .tflite")
    if file.suffix == ".onnx" and (batch_size, sequence_length, image_size) != (1, None, None):
        raise ValueError("sizes: got static sizes for an ONNX file, whose dimensions are open; accepted: none")
    loaded = _model(model)
    if file.suffix == ".onnx":
        result = exporters.to_onnx(loaded, file)
    else:
        sizes: dict[str, Any] = {"sequence_length": sequence_length, "image_size": image_size}
        result = exporters.to_tflite(loaded, file, batch_size=batch_size, **sizes)
    _print_report(result, json_)


@app.command()
def verify(
    model: Model,
    file: Annotated[Path, typer.Argument(help="The exported file.")],
    tolerance: Annotated[float, typer.Option(help="Greatest accepted difference.")] = 1e-4,
    json_: Json = False,
):
    """Compare an exported file with its model; exit 1 if they differ."""
    from . import export as exporters

    loaded = _model(model)
    report = exporters.verify(loaded, file, tolerance=tolerance)
    _print_report(report, json_)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def bench(
    file: Annotated[Path, typer.Argument(help="An .onnx or .tflite file.")],
    batch: int = 1,
    sequence: Annotated[int | None, typer.Option(help="Tokens per row.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the image in pixels.")] = None,
    repeats: int = 30,
    threads: Annotated[int | None, typer.Option(help="CPU threads; every core by default.")] = None,
    json_: Json = False,
):
    """Time an exported file. Needs neither TensorFlow nor Keras."""
    from . import export as exporters

    sizes: dict[str, Any] = {"batch": batch, "sequence": sequence, "image_size": image_size}
    _print_report(exporters.benchmark(file, repeats=repeats, threads=threads, **sizes), json_)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the files go.")] = Path("demo-output"),
    quick: Annotated[bool, typer.Option("--quick", help="Shorter training, under 90 seconds in all.")] = False,
    json_: Json = False,
):
    """Train a GPT, a BERT and a ViT on data every Python has, ship them, and prove the files right."""
    from .demo import run

    result = run(output, quick=quick, console=Console(stderr=True) if json_ else console)
    if json_:
        _print_json(result)
    if not result["passed"]:
        raise typer.Exit(1)


def _model(name: str) -> Any:
    from . import zoo
    from .export.quiet import quiet
    from .zoo.registry import preset

    if Path(name).exists():
        with quiet():
            return zoo.load(name)
    preset(name)  # a wrong name is told before the heavy imports
    with quiet():
        import keras

        keras.utils.set_random_seed(0)  # the same weights for the command that exports and the one that verifies
        return zoo.create(name)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_report(report: Any, as_json: bool) -> None:
    if as_json:
        print(report.to_json())
    else:
        console.print(Markdown(report.to_markdown()))


def main() -> None:
    """The console script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings are not ours
    try:
        app()
    except (ValueError, ImportError, OSError) as error:
        print(f"attention-zoo: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
