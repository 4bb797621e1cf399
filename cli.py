"""The command line. Exit codes: 0 fine, 1 a check failed, 2 the user's mistake, in one line."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from .needs import named_extras
from .sources import any_model, existing, fields_of, ids_of, is_exported, lines_of, model_of, runnable
from .terminal import complain, working

try:
    with named_extras():
        import typer
        from rich.console import Console
        from rich.markdown import Markdown
        from rich.table import Table
        from rich.text import Text
        from typer.exceptions import TyperException
except ImportError as error:  # such as after pip install --no-deps, which is enough for running files from Python
    raise SystemExit(complain(error, 2)) from error

app = typer.Typer(
    name="attention-zoo",
    help="Transformers in Keras, shipped to ONNX Runtime and LiteRT, and proved right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
TokenizerPath = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="A folder, a tokenizer.json or a .gguf file; default: the model's."),
]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(help="Draw from so many likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest that have this probability together.")]
MinP = Annotated[float | None, typer.Option(help="Draw from those at least this many times as likely as the first.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: what was said already is less likely.")]
Seed = Annotated[int | None, typer.Option(help="Of the draws.")]
Model = Annotated[
    str, typer.Argument(help="A folder (ours or Hugging Face's), a .gguf or .keras file, or a preset (random weights).")
]
AnyModel = Annotated[
    str,
    typer.Argument(help="A folder (ours or Hugging Face's), a .gguf file, any model's .keras file, or a preset."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"attention-zoo {__version__}")
        raise typer.Exit()


@app.callback()
def _all(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command(name="list")
def list_(pattern: Annotated[str, typer.Argument(help="A shell pattern, such as 'vit*'.")] = "*", json_: Json = False):
    """Name the presets."""
    from .zoo.registry import list_models, preset

    columns = ("family", "parameters", "source", "licence")
    rows = [{"name": name} | {c: getattr(preset(name), c) for c in columns} for name in list_models(pattern)]
    if json_:
        return _print_json(rows)
    table = Table("name", *columns)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    console.print(table)


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(help="A preset, a folder, or a .gguf, .keras, .onnx, .tflite or .litertlm file.")
    ],
    json_: Json = False,
):
    """Show a preset's, a saved model's or an exported file's config, inputs and outputs."""
    if is_exported(name):
        return _file_info(existing("name", name), json_)
    model = model_of(name)
    signature = model.signature.to_dict()
    facts = {"name": name, "family": model.family, "parameters": model.count_params()}
    facts |= {"config": model.config.to_dict(), "inputs": signature["inputs"], "outputs": signature["outputs"]}
    if json_:
        return _print_json(facts)
    from .runtime.description import tensor_rows

    rows = [(field, str(value)) for field, value in facts["config"].items()]
    _print_rows(name, f"{facts['family']}, {facts['parameters']:,} parameters", [*rows, *tensor_rows(facts)])


def _file_info(file: str, json_: bool) -> None:
    from . import export as exporters
    from .runtime.description import rows
    from .runtime.quiet import quiet

    with quiet():  # LiteRT greets
        facts = exporters.describe(file)
    if json_:
        return _print_json(facts)
    _print_rows(
        file,
        f"{facts['family'] or 'not of attention_zoo'}, "
        f"{facts['task']}, " * bool(facts["task"]) + f"{facts['format']}, {facts['bytes'] / 1e6:.1f} MB",
        rows(facts),
    )


def _print_rows(name: str, summary: str, rows: Iterable[tuple[str, str]]) -> None:
    table = Table()
    for heading in (name, summary):
        table.add_column(Text(heading))
    for row in rows:
        table.add_row(*map(Text, row))  # as it is: brackets are no markup here
    console.print(table)


@app.command()
def convert(
    source: Model,
    target: Annotated[Path, typer.Argument(help="The folder, or the .keras file, to write.")],
    to: Annotated[str, typer.Option(help="zoo, huggingface or keras.")] = "huggingface",
    dtype: Annotated[str | None, typer.Option(help="Hugging Face: float32, float16 or bfloat16.")] = None,
    json_: Json = False,
):
    """Write a model in another format: ours, Hugging Face's, or Keras' own."""
    formats = ("zoo", "huggingface", "keras")
    if to not in formats:
        raise ValueError(f"to: got {to!r}; accepted: {list(formats)}")
    if to == "keras" and target.suffix != ".keras":
        raise ValueError(f"target: got {str(target)!r}; accepted for keras: a name that ends in .keras")
    if dtype is not None and to != "huggingface":
        raise ValueError(f"dtype: got {dtype!r} for {to}; accepted: none, but for huggingface")
    from . import zoo
    from .files import written
    from .runtime.quiet import quiet

    started = time.perf_counter()
    with working(f"converting {source}"), quiet():
        model = model_of(source)
        if to == "zoo":
            zoo.save(model, target)
        elif to == "huggingface":
            zoo.to_huggingface(model, target, dtype=dtype)
        else:
            with written(target) as temporary:
                model.save(temporary)
    size = sum(file.stat().st_size for file in ([target] if target.is_file() else target.rglob("*")) if file.is_file())
    facts = {"source": source, "target": str(target), "format": to, "family": model.family}
    facts |= {"parameters": model.count_params(), "bytes": size, "seconds": round(time.perf_counter() - started, 1)}
    if json_:
        return _print_json(facts)
    console.print(
        f"{target}: {facts['family']}, {facts['parameters']:,} parameters, {size / 1e6:.1f} MB, {facts['seconds']} s"
    )


@app.command()
def export(
    model: AnyModel,
    file: Annotated[Path, typer.Argument(help="Where to, ending in .onnx, .tflite or .litertlm; with --to a folder.")],
    to: Annotated[str | None, typer.Option(help="genai or huggingface: a folder of ONNX for these.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="TFLite: rows per call; default: 1.")] = None,
    sequence_length: Annotated[
        str | None, typer.Option(help="TFLite: tokens per row; several, as 32,128; or dynamic.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="TFLite: side of the image in pixels.")] = None,
    image_dtype: Annotated[str | None, typer.Option(help="uint8: pixels, normalised in the file.")] = None,
    prefill: Annotated[
        list[int] | None, typer.Option(help="TFLite, LiteRT-LM: tokens of a GPT's prompt taken at once.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="TFLite, LiteRT-LM: slots of the cache; genai: tokens in all.")
    ] = None,
    stop_token: Annotated[list[int] | None, typer.Option(help="LiteRT-LM, genai: id that ends a text.")] = None,
    cache: Annotated[bool | None, typer.Option(help="With or without a key/value cache.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, int8 or int4; huggingface: several, as fp32,int8.")
    ] = "fp32",
    activations: Annotated[str | None, typer.Option(help="int8: dynamic, float, static or static16 (TFLite).")] = None,
    integer_only: Annotated[
        bool, typer.Option("--integer-only", help="TFLite, static ranges: every operator, not the products alone.")
    ] = False,
    block_size: Annotated[int | None, typer.Option(help="int4, and int8 with float activations.")] = None,
    method: Annotated[str | None, typer.Option(help="int4: rtn, search, or gptq, which takes minutes.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Weights that stay float32, such as '*/down/kernel'.")] = None,
    target: Annotated[str | None, typer.Option(help="Operators of int4: onnxruntime or standard.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Texts to measure the accuracy on, one a line.")] = None,
    least_cosine: Annotated[float | None, typer.Option(help="Refuse what is farther from float32 than this.")] = None,
    card: Annotated[
        list[str] | None, typer.Option(help="What the file says of the model, such as 'license=MIT' or 'author=Ada'.")
    ] = None,
    json_: Json = False,
):
    """Write a model as ONNX, TFLite or LiteRT-LM, checked against Keras, alone or in a folder as others open it."""
    from .export.command import export_as, lengths

    details: dict[str, Any] = {"activations": activations, "block_size": block_size, "method": method}
    details |= {"keep": tuple(keep or ()), "integer_only": integer_only}
    options: dict[str, Any] = {"cache": cache, "target": target, "least_cosine": least_cosine}
    options |= {
        "image_dtype": image_dtype,
        "stop_tokens": stop_token or None,
        "card": fields_of("card", card or []) or None,
    }
    options |= {"samples": None if samples is None else lines_of("samples", samples), "batch_size": batch_size}
    options |= {"sequence_length": lengths(sequence_length), "image_size": image_size}
    options |= {"prefill": prefill or None, "max_length": max_length}
    with working(f"exporting {model} to {file}"):
        results = export_as(lambda: any_model(model), file, to, precision, details, options)
    if json_ and len(results) > 1:
        return _print_json([json.loads(result.to_json()) for result in results])
    for result in results:
        _print_report(result, json_)


@app.command()
def verify(
    model: AnyModel,
    file: Annotated[Path, typer.Argument(help="The exported file.")],
    tolerance: Annotated[float | None, typer.Option(help="Greatest accepted difference; default 2e-5.")] = None,
    json_: Json = False,
):
    """Compare an exported file with its model; exit 1 if they differ."""
    from . import export as exporters

    existing("file", file)
    with working(f"comparing {file} with {model}"):
        ours = any_model(model)  # first, as it imports Keras without a word
        report = exporters.verify(ours, file, tolerance=tolerance)
    _print_report(report, json_)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def bench(
    files: Annotated[
        list[Path], typer.Argument(help="An .onnx, .tflite or .litertlm file; of several, ratios to the first.")
    ],
    batch: Annotated[int | None, typer.Option(help="Rows; default: the file's own, or 1.")] = None,
    sequence: Annotated[int | None, typer.Option(help="Tokens per row; default: the file's own.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the image in pixels.")] = None,
    prompt_length: Annotated[list[int] | None, typer.Option(help="Tokens of a prompt; default: 128, 512.")] = None,
    cache_length: Annotated[list[int] | None, typer.Option(help="Tokens before a step; default: 16, 512.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Timed runs; default: 30, of several files 10.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Of several files: turns of each; default: 5.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; every core by default.")] = None,
    limits: Annotated[bool, typer.Option("--limits", help="What memory and cores can do, beside it.")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw it too, as .png or .svg.")] = None,
    json_: Json = False,
):
    """Time exported files: calls, prompts, tokens, memory. Needs neither TensorFlow nor Keras."""
    from . import export as exporters
    from .plot import measurements, need_pictures

    for file in files:
        existing("file", file)
    if png is not None:
        need_pictures(png)  # said before the minutes that it takes
    if rounds is not None and len(files) == 1:
        raise ValueError(f"rounds: got {rounds} for one file; accepted: several files")
    asked: dict[str, Any] = {"batch": batch, "sequence": sequence, "image_size": image_size, "limits": limits}
    asked |= {"prompt_lengths": prompt_length or None, "cache_lengths": cache_length or None, "threads": threads}
    asked |= {name: n for name, n in (("repeats", repeats), ("rounds", rounds)) if n is not None}
    with working(f"timing {', '.join(map(str, files))}"):
        figures = exporters.benchmark(files[0], **asked) if len(files) == 1 else exporters.compare(files, **asked)
    if png is not None:
        measurements(figures, png)
    print(figures.to_json() if json_ else figures.to_text())


@app.command()
def generate(
    model: Annotated[
        str, typer.Argument(help="A folder of a model or of an export, an .onnx, .tflite or .litertlm file, a preset.")
    ],
    prompts: Annotated[list[str] | None, typer.Argument(help="Texts, which need a tokenizer.")] = None,
    ids: Annotated[list[str] | None, typer.Option(help="A prompt as ids, such as '5 6 7'; once for each.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Texts are questions, for the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="What a chat model is told first.")] = None,
    tokenizer: TokenizerPath = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: 32, with --chat 256.")] = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    num_beams: Annotated[int, typer.Option(help="Continuations to keep; the best is given.")] = 1,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends a continuation.")] = None,
    json_: Json = False,
):
    """Continue prompts, with a Keras model or an exported file."""
    from .text.prompts import continue_prompts, find_tokenizer

    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    options |= {"repetition_penalty": repetition_penalty, "num_beams": num_beams, "seed": seed}
    options |= {"stop_strings": stop or None, "chat": chat, "system": system}
    options["max_new_tokens"] = 32 if max_new_tokens is None and not chat and system is None else max_new_tokens
    given = [ids_of(row) for row in ids or []]
    with working(f"continuing with {model}"):
        source = runnable(model)
        options["tokenizer"] = find_tokenizer(source, model, tokenizer, needed=bool(prompts or stop))
        rows = continue_prompts(source, prompts or [], given, **options)
    if json_:
        return _print_json(rows)
    for number, (prompt, row) in enumerate(zip(prompts or ids or [], rows, strict=True)):
        if len(rows) > 1:
            print(f"{os.linesep if number else ''}> {prompt}")
        print(row.get("text", " ".join(map(str, row["ids"]))))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf, .keras, .onnx, .tflite or .litertlm file.")],
    once: Annotated[list[str] | None, typer.Option(help="Ask this and leave; several are asked in turn.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    tokenizer: TokenizerPath = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of an answer. Default: 256.")] = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    json_: Json = False,
):
    """Talk to a model or an exported file. /new starts again, /exit or the end of the input leaves."""
    from .generation.chat import Conversation
    from .terminal import talk
    from .text.prompts import find_tokenizer

    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    options |= {"repetition_penalty": repetition_penalty, "seed": seed, "max_new_tokens": max_new_tokens}
    with working(f"loading {model}"):
        source = runnable(model)
        options["tokenizer"] = find_tokenizer(source, model, tokenizer)
        conversation = Conversation(source, system, **options)
    talk(conversation, once or [], silent=json_)
    if json_:
        _print_json(conversation.messages)


@app.command()
def plot(
    kind: Annotated[str, typer.Argument(help="attention, rollout, positions or alignment.")],
    model: Model,
    file: Annotated[Path, typer.Argument(help="Where to, ending in .png or .svg.")],
    ids: Annotated[str | None, typer.Option(help="Tokens to attend to, such as '5 6 7'.")] = None,
    text: Annotated[str | None, typer.Option(help="A text to attend to, for the model's tokenizer.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture, for the model's preprocessing.")] = None,
    length: Annotated[int | None, typer.Option(help="Positions to draw.")] = None,
    layer: Annotated[int | None, typer.Option(help="This layer only.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Make the input up, as is done for a preset.")] = False,
):
    """Draw attention maps, where a ViT looks, positions, or an alignment."""
    from .plot import command, picture_format

    picture_format(file)  # a wrong name is refused before the heavy imports
    tokens = None if ids is None else ids_of(ids)
    made_up = random or not Path(model).exists()  # of a preset, whose weights are random too
    given: dict[str, Any] = {"tokens": tokens, "text": text, "image": image, "length": length, "layer": layer}
    with working(f"drawing {model}"):
        command(kind, model_of(model), file, **given, random=made_up)
    console.print(f"{file}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the files go.")] = Path("demo-output"),
    quick: Annotated[bool, typer.Option("--quick", help="Shorter training, about a hundred seconds in all.")] = False,
    json_: Json = False,
):
    """Train a GPT, a BERT and a ViT on data every Python has, ship them, and prove the files right."""
    from .demo import run

    result = run(output, quick=quick, console=Console(stderr=True) if json_ else console)
    if json_:
        _print_json(result)
    if not result["passed"]:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_report(report: Any, as_json: bool) -> None:
    if as_json:
        print(report.to_json())
    else:
        console.print(Markdown(report.to_markdown()))


def main(arguments: Iterable[str] | None = None) -> None:
    """The console script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings are not ours
    try:
        code = app(None if arguments is None else list(arguments), standalone_mode=False)
    except TyperException as error:  # an option or a command that is not there, or a value of another kind
        code = complain(error.format_message() or "no command; see --help", error.exit_code)
    except (ValueError, ImportError, OSError) as error:
        code = complain(error, 2)
    except (KeyboardInterrupt, typer.Abort):
        code = complain("stopped", 130)
    except RuntimeError as error:
        from .export.errors import ExportError  # of a file that did not become what it should

        if not isinstance(error, ExportError):
            raise
        code = complain(error, 1)
    if arguments is None:
        from .runtime.quiet import quiet_at_exit

        quiet_at_exit()  # LiteRT takes its leave too
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
