"""Export to a folder for ONNX Runtime GenAI: the decoder, genai_config.json, and the tokenizer files.

The meaning of the entries of genai_config.json is taken from the runtime's source (``src/config.cpp``,
``src/models/``, versions 0.16 to 0.18):

- ``type`` must be one of the known types; "decoder" is any decoder with the declared inputs.
- ``past_present_share_buffer`` requires GroupQueryAttention, which a graph of standard operators does not have.
- Prompts of different lengths are padded on the right with ``pad_token_id``, and everything after the last other token
  is masked. A prompt must therefore not end with ``pad_token_id``, which would be masked in a single prompt too.
- Without an end token, generation ends at ``pad_token_id``, which is 0 by default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...checks import positive_integer
from ...files import write_json
from ...generation.defaults import without_fields
from ...needs import named_extras
from ...runtime.metadata import TOKENIZER_FILES
from ...runtime.runner import Runner
from ...signature import Signature
from ..frontend.spec import decoder_graphs, ends_of, exportable
from ..onnx.exporter import export_onnx
from ..options import Precision
from ..request import ExportRequest
from ..result import ExportResult
from .folders import check_folder, moved, written_folder
from .genai_tokenizer import genai_files, unread

CONFIG_FILE, MODEL_FILE = "genai_config.json", "model.onnx"
KNOWN = (MODEL_FILE, f"{MODEL_FILE}.data", CONFIG_FILE, *TOKENIZER_FILES)
NO_TOKENIZER = "without a tokenizer: the folder takes ids, and no texts"
# Entries of generation_config.json that the runtime obeys under the same names.
SEARCH = (
    *("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("min_length", "num_beams", "length_penalty", "early_stopping", "num_return_sequences"),
)


@named_extras()
def to_genai(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    precision: str | Precision = "fp32",
    max_length: int | None = None,
    stop_tokens: Any = None,
    target: str | None = None,
    samples: Any = None,
    metric: Callable[[Runner], float] | None = None,
    least_cosine: float | None = None,
    card: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write `model`, a causal decoder such as a GPT, as a folder that ``onnxruntime_genai.Model(folder)`` opens.

    The folder contains ``model.onnx``, which is written and compared with Keras as by ``to_onnx``, with a float32
    key/value cache (float16 for "fp16"), and genai_config.json. For a model with a tokenizer, it also contains the
    files that ``onnxruntime_genai.Tokenizer`` reads; without them it takes ids only. ``export.load`` and
    ``export.verify`` accept ``model.onnx`` too. The folder appears only when the export has succeeded, and replaces an
    earlier export.

    A prompt must not end with the pad token: the runtime masks it as padding.

    Args:
        model: a causal decoder of attention_zoo.
        folder: path of the folder. It must not exist, be empty, or have been written by this function.
        precision: as in ``to_onnx``.
        max_length: maximum number of tokens of a prompt and its continuation, unless the program sets another. Default:
            the `max_length` of the model's generation config, or else that of the model.
        stop_tokens: ids of the end tokens. Default: ``model.stop_tokens``, those of config, generation config and
            tokenizer.
        target: as in ``to_onnx``. Default: "onnxruntime" if the decoder allows it, as in GenAI's own models; the cache
            is then one buffer of `max_length` tokens. Otherwise the default of ``to_onnx``.
        samples, metric, least_cosine, card: as in ``to_onnx``.

    Returns:
        The ``ExportResult`` of ``model.onnx``; its `files` are all files of the folder. A missing tokenizer, or one
        that the runtime cannot read, is a warning.

    Raises:
        ValueError: the model is not a causal decoder or has no end token, which the runtime requires; the folder has
            other files; `max_length` exceeds the model's; or as in ``to_onnx``.
        ExportError: as in ``to_onnx``.
    """
    options: dict[str, Any] = {"max_length": max_length, "stop_tokens": stop_tokens, "target": target}
    options |= {"samples": samples, "metric": metric, "least_cosine": least_cosine, "card": card}
    return export_genai(model, ExportRequest.of("genai", folder, precision=precision, **options))


def export_genai(model: Any, request: ExportRequest) -> ExportResult:
    """Write `model` with the options of `request`; see ``to_genai``."""
    model = exportable(model)
    graphs = decoder_graphs(model)
    check_folder(request.path, KNOWN)
    longest = _longest(model, request.max_length)  # checked before the export, which takes minutes
    ends = ends_of(model, request.stop_tokens, "where onnxruntime-genai ends a text at token 0")
    with written_folder(request.path, KNOWN) as new:
        result = _file(model, request.for_file("onnx", new / MODEL_FILE))
        shared = any(name.endswith("GroupQueryAttention") for name in result.operators)
        write_json(settings_of(model, graphs["decoder"].signature, ends, longest, shared), new / CONFIG_FILE)
        for name, text in ({} if model.tokenizer is None else genai_files(model.tokenizer)).items():
            (new / name).write_bytes(text.encode())
        beside = sorted(file for file in new.iterdir() if file not in result.files)
        warning = NO_TOKENIZER if model.tokenizer is None else unread(model.tokenizer)
        lost = without_fields(model.generation_defaults, "ONNX Runtime GenAI", _search(model.generation_defaults))
        warnings = [*result.warnings, *([warning] if warning else []), *lost]
        result = replace(result, files=(*result.files, *beside), warnings=warnings)
        return moved(result, new, request.path, format="genai")


def _longest(model: Any, max_length: int | None) -> int:
    """Return the maximum number of tokens of a prompt and its continuation together."""
    positions = model.config.to_dict()["max_length"]
    stated = min(positions, model.generation_defaults.get("max_length", positions))
    longest = stated if max_length is None else positive_integer("max_length", max_length)
    if longest > positions:
        raise ValueError(f"max_length: got {longest}; accepted: at most {positions}, the model's positions")
    return longest


def _file(model: Any, request: ExportRequest) -> ExportResult:
    """Write the ONNX file, by default with ONNX Runtime's own operators if the decoder allows it: they are faster."""
    config = model.config.to_dict()
    rotary = str(config.get("position")).startswith("rotary")
    if request.target is None and rotary and config["head_dim"] % 16 == 0:
        try:
            return export_onnx(model, replace(request, target="onnxruntime"))
        except ValueError as error:
            if not str(error).startswith("target: "):
                raise
    return export_onnx(model, request)


def settings_of(
    model: Any, signature: Signature, ends: list[int], max_length: int | None, shared: bool
) -> dict[str, Any]:
    """Return the content of genai_config.json, from the decoder's signature and the configs of the model.

    Args:
        ends: the ids of the end tokens.
        max_length: as in ``to_genai``.
        shared: whether the decoder has ONNX Runtime's own attention, whose cache is one buffer.
    """
    longest = _longest(model, max_length)
    config = model.config.to_dict()
    caches = [spec for spec in signature.inputs if spec.name in signature.state]
    _, kv_heads, _, head_size = caches[0].dims  # (batch, kv_heads, past_sequence, head_dim)
    ids = {name: _special_id(model, f"{name}_token_id") for name in ("bos", "pad")}
    ids["pad"] = ends[0] if ids["pad"] is None else ids["pad"]
    search = _search(model.generation_defaults)
    return {
        "model": {
            "type": "decoder",
            **{f"{name}_token_id": number for name, number in ids.items() if number is not None},
            "eos_token_id": ends[0] if len(ends) == 1 else ends,
            "vocab_size": signature.outputs[0].dims[-1],
            "context_length": config["max_length"],
            "decoder": {
                # 3: errors only. At level 2 the runtime warns that num_logits_to_keep, an optional input, is missing.
                "session_options": {"log_id": "onnxruntime-genai", "log_severity_level": 3, "provider_options": []},
                "filename": MODEL_FILE,
                "hidden_size": config["hidden_dim"],
                "head_size": head_size,
                "num_attention_heads": config["num_heads"],
                "num_key_value_heads": kv_heads,
                "num_hidden_layers": len(caches) // 2,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, **search, "max_length": longest, "past_present_share_buffer": shared},
    }


def _search(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a generation config that the runtime obeys, with the defaults that transformers has."""
    found = {name: defaults[name] for name in SEARCH if name in defaults}
    if not isinstance(found.get("early_stopping", False), bool):
        del found["early_stopping"]
    return {"top_k": 50, **found} if found.get("do_sample") else found


def _special_id(model: Any, name: str) -> int | None:
    """Return an id from the config, or else from the tokenizer; None if neither has it."""
    own = model.config.to_dict().get(name)
    return own if own is not None else getattr(model.tokenizer, name, None)
