"""Export to a bundle for Google's LiteRT-LM engine: the TFLite file, the tokenizer, and metadata for the engine.

The engine runs a file of ``to_tflite`` unchanged. How it uses the metadata is taken from its source (``runtime/core``,
``runtime/conversation``, ``runtime/components/prompt_template.cc``, version 0.18):

- tokenizer.json is read by Hugging Face's `tokenizers`, and special tokens are recognized in the text. The engine does
  not add the tokens of the post-processor.
- ``start_token`` is fed before every prompt, even if the prompt already begins with it. It is therefore written only if
  the model's own tokenizer adds it, and is then removed from the beginning of the chat template.
- ``jinja_prompt_template`` renders conversations; a session without a conversation uses only ``prompt_templates``.
- Without sampler parameters, the engine takes the most likely token. The metadata has parameters of sampling and tokens
  that are never generated; penalties are options of each request.
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
from ...generation.defaults import without_fields
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

SECTIONS = ("LlmMetadataProto", "HF_Tokenizer_Zlib", "TFLiteModel")


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
    """Write `model`, a causal decoder such as a GPT with its tokenizer, as a bundle for ``litert-lm run``.

    The bundle contains the TFLite file with a key/value cache, written and compared with Keras as by ``to_tflite``, the
    tokenizer's tokenizer.json, and the metadata that the engine requires: the maximum number of tokens, the end tokens
    and the chat template. The template is written anew for the engine's template language, as fixed texts around the
    messages, and compared with the original. ``export.load`` runs the bundle too, in the engine. The bundle appears
    only when the export has succeeded.

    Args:
        model: a causal decoder of attention_zoo with a tokenizer.
        path: path of the bundle, which must end in ``.litertlm``.
        precision: as in ``to_tflite``.
        prefill: the number of prompt tokens that one call processes; several numbers make several signatures. Default:
            32 and 128, as far as they do not exceed `max_length`.
        max_length: maximum number of tokens of a conversation. Default: the model's `max_length`, but at most 512.
        stop_tokens: ids of the end tokens. Default: ``model.stop_tokens``, those of config, generation config and
            tokenizer.
        samples, metric, least_cosine, card: as in ``to_tflite``.

    Returns:
        The ``ExportResult`` of the TFLite file, with the path and the size of the bundle.

    Raises:
        ValueError: `path` has another suffix; the model is not a causal decoder, or has no tokenizer or no end token;
            the chat template cannot be expressed as fixed texts around messages; or as in ``to_tflite``.
        ExportError: as in ``to_tflite``.
    """
    options: dict[str, Any] = {"prefill": prefill, "max_length": max_length, "stop_tokens": stop_tokens}
    options |= {"samples": samples, "metric": metric, "least_cosine": least_cosine, "card": card}
    return export_litertlm(model, ExportRequest.of("litertlm", path, precision=precision, **options))


def export_litertlm(model: Any, request: ExportRequest) -> ExportResult:
    """Write `model` with the options of `request`; see ``to_litertlm``."""
    import litert_lm_builder  # noqa: F401  a missing package is reported before the conversion, which takes minutes

    target = request.path
    model = exportable(model)
    prompts, start, ends = engine_prompts(model, request)
    with written(target) as temporary:
        file = temporary.with_name("model.tflite")
        result = export_tflite(model, request.for_file("tflite", file, cache=True))
        slots = TFLiteRunner(file).decoder().max_length
        message, lost = metadata_of(model, prompts, start, ends, slots)
        warnings = [*result.warnings, *lost]
        bundle(file, model.tokenizer, message, temporary, request.card)
        size = temporary.stat().st_size
    if any("strftime_now" in template for template in model.tokenizer.chat_templates.values()):
        warnings.append("the date that the chat template writes is that of the export")
    return replace(result, path=target, format="litertlm", bytes=size, files=(target,), warnings=warnings)


def engine_prompts(model: Any, request: ExportRequest) -> tuple[Prompts, int | None, list[int]]:
    """Return the prompts, the start token and the end tokens that the engine gets.

    Raises:
        ValueError: as in ``to_litertlm``, if `model` or its tokenizer does not suit the engine.
    """
    decoder_graphs(model)  # raises if the model is not a causal decoder
    if model.tokenizer is None:
        raise ValueError("model.tokenizer: got none, which LiteRT-LM needs; accepted: an attention_zoo.Tokenizer")
    texts(model)  # raises if the tokenizer does not fit the model
    if request.max_length is not None:
        positive_integer("max_length", request.max_length)
    ends = ends_of(model, request.stop_tokens, "without which LiteRT-LM does not stop")
    return (*_start(model.tokenizer, prompts_of(model.tokenizer, _tokens(model.tokenizer, ends))), ends)


def bundle(file: Path, tokenizer: Tokenizer, metadata: Any, target: Path, card: Mapping[str, str]) -> None:
    """Write a TFLite file, a tokenizer and metadata to one bundle.

    Args:
        file: path of the TFLite file.
        tokenizer: the tokenizer, whose tokenizer.json is written.
        metadata: an ``LlmMetadata`` message.
        target: path of the bundle.
        card: the model card, which is written to the system metadata.

    Raises:
        ValueError: `metadata` lacks a required field.
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
        # The builder requires both flags. The message has them too, but one with a single field may be parsed as text.
        builder.add_llm_metadata(str(described), supports_thinking=False, supports_function_calling=False)
        builder.add_hf_tokenizer(str(vocabulary))
        builder.add_tflite_model(str(file), TfLiteModelType.PREFILL_DECODE)
        with target.open("wb") as stream:
            builder.build(stream, validate_metadata=True)


def metadata_of(model: Any, prompts: Prompts, start: int | None, ends: list[int], slots: int) -> tuple[Any, list[str]]:
    """Return the ``LlmMetadata`` message of a bundle, and a warning if some of the generation config has no field."""
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
    return message, _set_generation(message, model, ends)


def _set_generation(message: Any, model: Any, ends: list[int]) -> list[str]:
    """Write the model's generation config to the metadata, and return a warning if some of it has no field there."""
    defaults = model.generation_defaults
    words = [word[0] for word in defaults.get("bad_words_ids", ()) if len(word) == 1 and word[0] not in ends]
    if banned := sorted({*words, *defaults.get("suppress_tokens", ())}):
        message.suppress_tokens.ids.extend(banned)
    if defaults.get("do_sample"):
        sampler = message.sampler_params
        sampler.type = type(sampler).TOP_P
        sampler.k = defaults.get("top_k", 50) or model.config.to_dict()["vocab_size"]
        sampler.p, sampler.temperature = defaults.get("top_p", 1.0), defaults.get("temperature", 1.0)
    return without_fields(defaults, "LiteRT-LM", ("do_sample", "temperature", "top_k", "top_p", "suppress_tokens"))


def _start(tokenizer: Tokenizer, prompts: Prompts) -> tuple[Prompts, int | None]:
    """Return the prompts without the start token that the engine adds, and the id of that token, or None."""
    token = tokenizer.bos_token_id
    if token is None or tokenizer.encode("x").ids[:1] != [token]:
        return prompts, None
    if not tokenizer.chat_templates:
        return prompts, token
    shorter = prompts.without(tokenizer.special_tokens["bos_token"])
    return (prompts, None) if shorter is None else (shorter, token)


def _tokens(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([number], skip_special_tokens=False) for number in ids]
