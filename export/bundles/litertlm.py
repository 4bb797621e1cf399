"""A bundle for Google's LiteRT-LM engine: the TFLite file, the tokenizer, and what the engine must know of both.

The engine runs a file of ``to_tflite`` as it is. What it makes of the rest is from its own source (``runtime/core``,
``runtime/conversation``, ``runtime/components/prompt_template.cc``, 0.18):

- tokenizer.json is read by the library that wrote it, and special tokens are found in the text; what the file's post
  processor adds is not added.
- ``start_token`` is fed before everything, also where a prompt already begins with it. So it is only written where the
  model's own tokenizer puts it there, and then taken from the beginning of the chat template.
- A conversation is rendered by ``jinja_prompt_template``; a session without one has only ``prompt_templates``.
- Without sampler parameters the likeliest token is taken.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...checks import positive_integer
from ...files import written
from ...needs import named_extras
from ...runtime.runner import Runner
from ...runtime.tflite.runner import TFLiteRunner
from ...text.tokenizer import Tokenizer
from ..frontend.spec import decoder_graphs, ends_of, exportable, texts
from ..options import Precision
from ..request import ExportRequest
from ..result import ExportResult
from ..tflite.exporter import export_tflite
from .litertlm_prompt import Prompts, prompts_of


@named_extras()
def to_litertlm(
    model: Any,
    path: str | os.PathLike[str],
    *,
    precision: str | Precision = "fp32",
    prefill: int | Sequence[int] | None = None,
    max_length: int | None = None,
    stop_tokens: Any = None,
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
    card: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write `model`, a decoder such as a GPT with its tokenizer, as a bundle that ``litert-lm run`` runs.

    In it are the file that ``to_tflite`` writes, checked against Keras, the tokenizer's tokenizer.json as it is, and
    the metadata that the engine wants: tokens in all, those that end a text, and the chat template, as texts around
    messages that are compared with the template itself. ``export.load`` runs it too, in the engine. The bundle appears
    whole or not at all.

    Args:
        model: a causal decoder with a tokenizer.
        path: ends in ``.litertlm``.
        precision, samples, metric, least_cosine, card: as of ``to_tflite``.
        prefill: how many tokens of a prompt are taken at once; several for several sizes. Default: 32 and 128, as far
            as they fit.
        max_length: tokens that a conversation has at the most. Default: the model's `max_length`, 512 at the most.
        stop_tokens: ids that end a text. Default: ``model.stop_tokens``, of config, generation config and tokenizer.

    Returns:
        The result of the TFLite file in it, with the path and the bytes of the bundle.

    Raises:
        ValueError: another suffix; a model that is no decoder, or has no tokenizer or nothing that ends a text; a chat
            template that cannot be said in texts around messages; and as ``to_tflite``.
        ExportError: as ``to_tflite``.
    """
    options: dict[str, Any] = {"prefill": prefill, "max_length": max_length, "stop_tokens": stop_tokens}
    options |= {"samples": samples, "metric": metric, "least_cosine": least_cosine, "card": card}
    return export_litertlm(model, ExportRequest.of("litertlm", path, precision=precision, **options))


def export_litertlm(model: Any, request: ExportRequest) -> ExportResult:
    """Write `model` as `request` asks; see ``to_litertlm``."""
    import litert_lm_builder  # noqa: F401  a missing package is reported before the conversion, which takes minutes

    target = request.path
    model = exportable(model)
    decoder_graphs(model)  # raises for any other kind of model
    if model.tokenizer is None:
        raise ValueError("model.tokenizer: got none, which LiteRT-LM needs; accepted: an attention_zoo.Tokenizer")
    texts(model)  # raises where the tokenizer does not fit
    if request.max_length is not None:
        positive_integer("max_length", request.max_length)
    ends = ends_of(model, request.stop_tokens, "without which LiteRT-LM does not stop")
    prompts, start = _start(model.tokenizer, prompts_of(model.tokenizer, _tokens(model.tokenizer, ends)))
    with written(target) as temporary, tempfile.TemporaryDirectory(dir=target.parent, prefix=".litertlm.") as room:
        file = Path(room) / "model.tflite"
        result = export_tflite(model, request.for_file("tflite", file, cache=True))
        slots = TFLiteRunner(file).decoder().max_length
        bundle(file, model.tokenizer, _metadata(prompts, start, ends, slots), temporary, request.card)
        size = temporary.stat().st_size
    warnings = list(result.warnings)
    if any("strftime_now" in template for template in model.tokenizer.chat_templates.values()):
        warnings.append("the date that the chat template writes is that of the export")
    return replace(result, path=target, format="litertlm", bytes=size, files=(target,), warnings=warnings)


def bundle(file: Path, tokenizer: Tokenizer, metadata: Any, target: Path, card: Mapping[str, str]) -> None:
    """Write a TFLite `file`, a `tokenizer` and the ``LlmMetadata`` as one file with a `card`.

    Raises:
        ValueError: metadata without what the format demands.
    """
    from litert_lm_builder import DType, LitertLmFileBuilder, Metadata, TfLiteModelType

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".litertlm.") as room:
        described, vocabulary = Path(room) / "metadata.pb", Path(room) / "tokenizer.json"
        described.write_bytes(metadata.SerializeToString())
        vocabulary.write_bytes(tokenizer.to_files(indent=False)["tokenizer.json"].encode())
        builder = LitertLmFileBuilder()
        said = {"producer": f"attention-zoo {version('attention-zoo')}", **card}
        for key, value in said.items():
            builder.add_system_metadata(Metadata(key=key, value=value, dtype=DType.STRING))
        # Flags that the format demands; the message has them too, but a file of one field may be read as text.
        builder.add_llm_metadata(str(described), supports_thinking=False, supports_function_calling=False)
        builder.add_hf_tokenizer(str(vocabulary))
        builder.add_tflite_model(str(file), TfLiteModelType.PREFILL_DECODE)
        with target.open("wb") as stream:
            builder.build(stream, validate_metadata=True)


def _metadata(prompts: Prompts, start: int | None, ends: list[int], slots: int) -> Any:
    from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    message = LlmMetadata(max_num_tokens=slots, jinja_prompt_template=prompts.template())
    message.llm_model_type.generic_model.SetInParent()
    if start is not None:
        message.start_token.token_ids.ids.append(start)
    for number in ends:
        message.stop_tokens.add().token_ids.ids.append(number)
    for name in ("system", "user", "model"):
        affixes, place = getattr(prompts, name), getattr(message.prompt_templates, name)
        place.prefix, place.suffix = (affixes.prefix, affixes.suffix) if affixes else ("", "")
    return message


def _start(tokenizer: Tokenizer, prompts: Prompts) -> tuple[Prompts, int | None]:
    """The token that the engine puts before everything, and the prompts without it; None where there is none."""
    token = tokenizer.bos_token_id
    if token is None or tokenizer.encode("x").ids[:1] != [token]:
        return prompts, None
    if not tokenizer.chat_templates:
        return prompts, token
    shorter = prompts.without(tokenizer.special_tokens["bos_token"])
    return (prompts, None) if shorter is None else (shorter, token)


def _tokens(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([number], skip_special_tokens=False) for number in ids]
