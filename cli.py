"""The command line ``attention-zoo``.

Exit codes: 0 success, 1 a check or an export failed, 2 invalid arguments or input files, 130 interrupted. Errors are
printed as one line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from .needs import named_extras
from .sources import (
    any_model,
    converted,
    described,
    existing,
    fields_of,
    ids_of,
    is_exported,
    model_of,
    runnable,
    samples_of,
)
from .terminal import accept_any_text, complain, working

try:
    with named_extras():
        import typer
        from rich.console import Console
        from rich.markdown import Markdown
        from rich.table import Table
        from rich.text import Text
        from typer.exceptions import TyperException

        from .runs.command import finetune, train
except ImportError as error:  # for example after pip install --no-deps, which suffices to run files from Python
    raise SystemExit(complain(error, 2)) from error

app = typer.Typer(
    name="attention-zoo",
    help="Transformers in Keras, exported to ONNX Runtime and LiteRT, and verified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()
for command in (train, finetune):
    app.command()(command)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
TokenizerPath = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="Tokenizer folder, tokenizer.json or .gguf file; default: the model's."),
]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature; 0 is greedy decoding.")]
TopK = Annotated[int | None, typer.Option(help="Sample from this many most likely tokens.")]
TopP = Annotated[float | None, typer.Option(help="Sample from the most likely tokens with this total probability.")]
MinP = Annotated[float | None, typer.Option(help="Sample from tokens with at least this share of the top probability.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1: earlier tokens are less likely.")]
Seed = Annotated[int | None, typer.Option(help="Random seed for sampling.")]
Model = Annotated[
    str, typer.Argument(help="Model folder (attention_zoo or Hugging Face), .gguf or .keras file, org/name or preset.")
]
AnyModel = Annotated[
    str, typer.Argument(help="Model folder (attention_zoo or Hugging Face), .gguf, any .keras, org/name, or preset.")
]
Imports = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module or .py file with the classes of a .keras model; repeatable."),
]
InputSignature = Annotated[
    list[str] | None,
    typer.Option(help="Keras model: shape of an input, as image=1,224,224,3:float32; a word is an open size."),
]


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"attention-zoo {__version__}")
        raise typer.Exit()


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(name="list")
def list_(pattern: Annotated[str, typer.Argument(help="Shell pattern, such as 'vit*'.")] = "*", json_: Json = False):
    """List the presets."""
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
        str, typer.Argument(help="Preset name, model folder, or .gguf, .keras, .onnx, .tflite or .litertlm file.")
    ],
    imports: Imports = None,
    target: Annotated[str | None, typer.Option(help="ONNX: runtime to check the file for, such as openvino.")] = None,
    json_: Json = False,
):
    """Show config, inputs and outputs of a preset, a saved model or an exported file."""
    if is_exported(name) or target is not None:
        return _file_info(existing("name", name), target, json_)
    model, parameters = described(name, imports or ())
    signature = model.signature.to_dict()
    facts = {"name": name, "family": model.family, "parameters": parameters}
    facts |= {"config": model.config.to_dict(), "inputs": signature["inputs"], "outputs": signature["outputs"]}
    if json_:
        return _print_json(facts)
    from .runtime.description import tensor_rows

    rows = [(field, str(value)) for field, value in facts["config"].items()]
    _print_rows(name, f"{facts['family']}, {facts['parameters']:,} parameters", [*rows, *tensor_rows(facts)])


def _file_info(file: str, target: str | None, json_: bool) -> None:
    from . import export as exporters
    from .export.targets.check import accept, check_files
    from .runtime.description import rows
    from .runtime.quiet import quiet

    accept(file, target)
    with quiet():  # LiteRT prints messages when it loads a file
        facts = exporters.describe(file)
    reports = check_files(facts["files"], target)
    if json_:
        return _print_json(facts | ({} if target is None else {"targets": [one.to_dict() for one in reports]}))
    _print_rows(
        file,
        f"{facts['family'] or 'not of attention_zoo'}, "
        f"{facts['task']}, " * bool(facts["task"]) + f"{facts['format']}, {facts['bytes'] / 1e6:.1f} MB",
        [*rows(facts), *(row for one in reports for row in one.rows())],
    )


def _print_rows(name: str, summary: str, rows: Iterable[tuple[str, str]]) -> None:
    table = Table()
    for heading in (name, summary):
        table.add_column(Text(heading))
    for row in rows:
        table.add_row(*map(Text, row))  # literal text: brackets are not markup
    console.print(table)


@app.command()
def convert(
    source: Model,
    target: Annotated[Path, typer.Argument(help="Folder, .keras or .gguf file to write.")],
    to: Annotated[str | None, typer.Option(help="zoo, huggingface, keras or gguf; default: by the suffix.")] = None,
    dtype: Annotated[str | None, typer.Option(help="huggingface: float32, …; gguf: f32, f16, bf16, q8_0, ….")] = None,
    json_: Json = False,
):
    """Convert a model to the format of attention_zoo, Hugging Face, Keras or llama.cpp."""
    facts = converted(source, target, to, dtype)
    if json_:
        return _print_json(facts)
    console.print(
        f"{target}: {facts['family']}, {facts['parameters']:,} parameters, {facts['bytes'] / 1e6:.1f} MB, "
        f"{facts['seconds']} s"
    )


@app.command()
def export(
    model: AnyModel,
    file: Annotated[
        Path, typer.Argument(help="Output file (.onnx, .tflite or .litertlm), or folder for genai or huggingface.")
    ],
    to: Annotated[
        str | None, typer.Option(help="onnx, tflite, litertlm, genai or huggingface; default: by the suffix.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="TFLite: rows per call; default: 1.")] = None,
    sequence_length: Annotated[
        str | None, typer.Option(help="TFLite: tokens per row; one or several, as 32,128; or dynamic.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="TFLite: side length of the images in pixels.")] = None,
    image_dtype: Annotated[str | None, typer.Option(help="uint8: pixels, normalized in the graph.")] = None,
    prefill: Annotated[
        list[int] | None, typer.Option(help="TFLite, LiteRT-LM: prompt tokens per prefill call; repeatable.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="TFLite, LiteRT-LM: slots of the key/value cache; genai: maximum tokens.")
    ] = None,
    stop_token: Annotated[list[int] | None, typer.Option(help="LiteRT-LM, genai: end token id; repeatable.")] = None,
    cache: Annotated[bool | None, typer.Option(help="With or without a key/value cache.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, int8 or int4; huggingface: one or several, as fp32,int8.")
    ] = "fp32",
    activations: Annotated[str | None, typer.Option(help="int8: dynamic, float, static, or static16 (TFLite).")] = None,
    integer_only: Annotated[bool, typer.Option("--integer-only", help="TFLite, static: all operators.")] = False,
    block_size: Annotated[
        int | None, typer.Option(help="Weights per scale; int4, or int8 with float activations.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="int4: rtn, search, or gptq (takes minutes).")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Weights to keep in float32, as '*/down/kernel'.")] = None,
    target: Annotated[
        str | None, typer.Option(help="ONNX: the runtime that the file is for, such as onnxruntime or openvino.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX: 17 to 23; default: the lowest that suffices.")] = None,
    static_shape: Annotated[
        list[str] | None, typer.Option(help="ONNX: size of an open dimension, as batch=1; repeatable.")
    ] = None,
    index_dtype: Annotated[str | None, typer.Option(help="ONNX: int32 or int64 for ids and masks.")] = None,
    data_format: Annotated[
        str | None, typer.Option(help="ONNX, huggingface: channels_first or channels_last for images.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Texts, one per line, or inputs as .npz, to compare and measure on.")
    ] = None,
    least_cosine: Annotated[float | None, typer.Option(help="Lowest accepted cosine similarity with float32.")] = None,
    card: Annotated[
        list[str] | None, typer.Option(help="Model card entry, such as 'license=MIT' or 'author=Ada'; repeatable.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="ONNX: text to store in the file, as 'name=text'; repeatable.")
    ] = None,
    input_signature: InputSignature = None,
    imports: Imports = None,
    json_: Json = False,
):
    """Export a model to ONNX, TFLite, LiteRT-LM or a folder for other loaders, and compare it with Keras."""
    from .export.command import export_as, lengths, shapes, sizes_of

    details: dict[str, Any] = {"activations": activations, "block_size": block_size, "method": method}
    details |= {"keep": tuple(keep or ()), "integer_only": integer_only}
    options: dict[str, Any] = {"cache": cache, "target": target, "least_cosine": least_cosine}
    options |= {"image_dtype": image_dtype, "stop_tokens": stop_token or None}
    options |= {"card": fields_of("card", card or []) or None}
    options |= {"samples": None if samples is None else samples_of("samples", samples), "batch_size": batch_size}
    options |= {"sequence_length": lengths(sequence_length), "image_size": image_size, "opset": opset}
    options |= {"static_shapes": sizes_of(static_shape or []) or None, "index_dtype": index_dtype}
    options |= {"data_format": data_format, "custom_metadata": fields_of("metadata", metadata or []) or None}
    options |= {"prefill": prefill or None, "max_length": max_length}
    options |= {"input_signature": shapes(input_signature or []) or None}
    with working(f"exporting {model} to {file}"):
        results = export_as(lambda: any_model(model, imports or ()), file, to, precision, details, options)
    if json_ and len(results) > 1:
        return _print_json([json.loads(result.to_json()) for result in results])
    for result in results:
        _print_report(result, json_)


@app.command()
def verify(
    model: AnyModel,
    file: Annotated[Path, typer.Argument(help="Exported file, or folder for ONNX Runtime GenAI.")],
    tolerance: Annotated[float | None, typer.Option(help="Maximum relative difference; default: 2e-5.")] = None,
    precision: Annotated[str | None, typer.Option(help="Precision that the file must have; default: any.")] = None,
    least_cosine: Annotated[float | None, typer.Option(help="That of the export, if it had one.")] = None,
    stop_token: Annotated[list[int] | None, typer.Option(help="Those of the export, if it had some.")] = None,
    max_length: Annotated[int | None, typer.Option(help="That of the export, if it had one.")] = None,
    input_signature: InputSignature = None,
    imports: Imports = None,
    samples: Annotated[Path | None, typer.Option(help="Inputs as .npz, compared in place of synthetic ones.")] = None,
    json_: Json = False,
):
    """Compare an exported file with its model; the exit code is 1 if they differ."""
    from . import export as exporters
    from .export.command import shapes, signature_of

    existing("file", file, folders=True)
    options: dict[str, Any] = {"tolerance": tolerance, "precision": precision, "least_cosine": least_cosine}
    found = None if samples is None else samples_of("samples", samples)
    options |= {"stop_tokens": stop_token or None, "max_length": max_length, "samples": found}
    given = shapes(input_signature or [])
    with working(f"comparing {file} with {model}"):
        ours = any_model(model, imports or ())  # first, because it silences the messages of importing Keras
        report = exporters.verify(ours, file, input_signature=signature_of(ours, given), **options)
    _print_report(report, json_)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def bench(
    files: Annotated[
        list[Path], typer.Argument(help=".onnx, .tflite or .litertlm files; several are compared with the first.")
    ],
    batch: Annotated[int | None, typer.Option(help="Batch size; default: that of the file, or 1.")] = None,
    sequence: Annotated[int | None, typer.Option(help="Tokens per row; default: that of the file.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side length of the images in pixels.")] = None,
    prompt_length: Annotated[
        list[int] | None, typer.Option(help="Prompt tokens; repeatable; default: 128, 512.")
    ] = None,
    cache_length: Annotated[list[int] | None, typer.Option(help="Cached tokens; repeatable; default: 16, 512.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Timed runs; default: 30, or 10 per round.")] = None,
    rounds: Annotated[int | None, typer.Option(help="For several files: rounds; default: 5.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all cores.")] = None,
    limits: Annotated[
        bool, typer.Option("--limits", help="Also measure memory bandwidth and GEMM throughput.")
    ] = False,
    png: Annotated[Path | None, typer.Option(help="Also draw a chart, as .png or .svg.")] = None,
    json_: Json = False,
):
    """Measure latency, throughput and memory of exported files, without TensorFlow and Keras."""
    from . import export as exporters
    from .plot import measurements, need_pictures

    for file in files:
        existing("file", file)
    if png is not None:
        need_pictures(png)  # before the measurement, which takes minutes
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
        str, typer.Argument(help="Folder, .gguf, .keras, .onnx, .tflite or .litertlm file, or preset name.")
    ],
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts as texts, which require a tokenizer.")] = None,
    ids: Annotated[list[str] | None, typer.Option(help="Prompt as token ids, such as '5 6 7'; repeatable.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Format prompts with the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message; implies --chat.")] = None,
    tokenizer: TokenizerPath = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="New tokens at most; default: 32, with --chat 256.")
    ] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    num_beams: Annotated[int | None, typer.Option(help="Number of beams; above 1: beam search.")] = None,
    seed: Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option(help=r"Text that ends generation, in which \n is a line break; repeatable.")
    ] = None,
    json_: Json = False,
):
    """Generate continuations of prompts with a Keras model or an exported file."""
    from .text.prompts import continue_prompts, find_tokenizer, unescaped

    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    options |= {"repetition_penalty": repetition_penalty, "num_beams": num_beams, "seed": seed}
    options |= {"stop_strings": [unescaped(text) for text in stop or []] or None, "max_new_tokens": max_new_tokens}
    options = _given(options) | {"chat": chat, "system": system}
    given = [ids_of(row) for row in ids or []]
    with working(f"continuing with {model}"):
        source = runnable(model)
        options["tokenizer"] = find_tokenizer(source, model, tokenizer, needed=bool(prompts or stop))
        if not (chat or system is not None or {"max_new_tokens", "max_length"} & set(source.generation_defaults)):
            options.setdefault("max_new_tokens", 32)
        rows = continue_prompts(source, prompts or [], given, **options)
    if json_:
        return _print_json(rows)
    for number, (prompt, row) in enumerate(zip(prompts or ids or [], rows, strict=True)):
        if len(rows) > 1:
            print(f"{os.linesep if number else ''}> {prompt}")
        print(row.get("text", " ".join(map(str, row["ids"]))))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Folder, or .gguf, .keras, .onnx, .tflite or .litertlm file.")],
    once: Annotated[list[str] | None, typer.Option(help="Question to answer before exiting; repeatable.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    tokenizer: TokenizerPath = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most; default: 256.")] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    json_: Json = False,
):
    """Chat with a model or an exported file. /new starts a new conversation, /exit or the end of the input exits."""
    from .generation.chat import Conversation
    from .terminal import talk
    from .text.prompts import find_tokenizer

    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    options |= {"repetition_penalty": repetition_penalty, "seed": seed, "max_new_tokens": max_new_tokens}
    options = _given(options)
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
    file: Annotated[Path, typer.Argument(help="Output file, ending in .png or .svg.")],
    ids: Annotated[str | None, typer.Option(help="Input as token ids, such as '5 6 7'.")] = None,
    text: Annotated[str | None, typer.Option(help="Input as text, for the model's tokenizer.")] = None,
    image: Annotated[Path | None, typer.Option(help="Input image, preprocessed for the model.")] = None,
    length: Annotated[int | None, typer.Option(help="Number of positions.")] = None,
    layer: Annotated[int | None, typer.Option(help="Index of a single layer.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Use synthetic input, as for a preset.")] = False,
):
    """Plot attention maps, attention rollout of a ViT, position encodings, or an alignment."""
    from .plot import command, picture_format

    picture_format(file)  # rejects a wrong suffix before the slow imports
    tokens = None if ids is None else ids_of(ids)
    made_up = random or not Path(model).exists()  # for a preset, whose weights are random too
    given: dict[str, Any] = {"tokens": tokens, "text": text, "image": image, "length": length, "layer": layer}
    with working(f"drawing {model}"):
        command(kind, model_of(model), file, **given, random=made_up)
    console.print(f"{file}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Output folder.")] = Path("demo-output"),
    quick: Annotated[bool, typer.Option("--quick", help="Shorter training, about 100 seconds in total.")] = False,
    json_: Json = False,
):
    """Train a GPT, two BERTs and a ViT on data that needs no download, export them, and verify the files."""
    from .demo import run

    result = run(output, quick=quick, console=Console(stderr=True) if json_ else console)
    if json_:
        _print_json(result)
    if not result["passed"]:
        raise typer.Exit(1)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are not None. The others keep the defaults of the model's generation config."""
    return {name: value for name, value in options.items() if value is not None}


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_report(report: Any, as_json: bool) -> None:
    if as_json:
        return print(report.to_json())
    return console.print(Markdown(report.to_markdown()))


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command line and exit. `arguments` are by default those of the process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's startup messages
    accept_any_text()
    try:
        code = app(None if arguments is None else list(arguments), standalone_mode=False)
    except TyperException as error:  # an unknown option or command, or a value of a wrong type
        code = complain(error.format_message() or "no command; see --help", error.exit_code)
    except (ValueError, ImportError, OSError) as error:
        code = complain(error, 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except RuntimeError as error:
        from .export.errors import ExportError  # raised by a failed export

        if not isinstance(error, ExportError):
            raise
        code = complain(error, 1)
    if code == 130:  # Ctrl+C, which typer catches too
        code = complain("stopped", 130)
    if arguments is None:
        from .runtime.quiet import quiet_at_exit

        quiet_at_exit()  # LiteRT prints messages at exit
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
