"""The runner for ``.litertlm`` bundles, in Google's LiteRT-LM engine, with texts as inputs and outputs.

runner = export.load("m.litertlm")
runner.generate_text([{"role": "user", "content": "What is the capital of France?"}])

A conversation is rendered by the model's own chat template and passed to the engine as one prompt, so that it consists
of the same tokens as for the Keras model. The prompt templates in the bundle's metadata are not used. Requires
``litert-lm-api`` and, to read the file, ``litert-lm-builder``, but neither TensorFlow nor Keras.
"""

from __future__ import annotations

import functools
import io
import os
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ... import checks
from ...generation.decoder import Decoder
from ...generation.defaults import resolved, without_fields
from ...generation.new_text import begun
from ...generation.options import GenerateOptions, Options
from ...generation.text_generation import MOST_NEW_TOKENS, Continuation, check_fits, is_ids, is_single, several
from ...needs import named_extras
from ...text.tokenizer import Tokenizer
from ...text.vocabularies import LARGEST
from ..metadata import FAMILY
from ..runner import Runner, usable_cores
from ..tflite.bounds import check_model
from ..tflite.flatbuffer import tflite_metadata

# Options of ``generate`` that the engine has. It lacks all others, or interprets them differently.
KNOWN = ("max_new_tokens", "temperature", "top_k", "top_p", "stop_tokens", "stop_strings", "tokenizer", "seed")
# Entries of a generation config that are obeyed; the bundle has the tokens that are never generated.
OBEYED = ("do_sample", "temperature", "top_k", "top_p", "stop_strings", "suppress_tokens")
ACCEPTED = "accepted: a LiteRT-LM file"
TOKENIZER = "HF_Tokenizer_Zlib"
ELSE = "or an .onnx or .tflite file of the model"


@dataclass(frozen=True)
class Section:
    """A section of a bundle.

    Attributes:
        kind: "LlmMetadataProto", "HF_Tokenizer_Zlib", "TFLiteModel", ….
        begin: The position of its first byte in the file.
        end: The position after its last byte.
        model_type: The purpose of a model, such as "tf_lite_prefill_decode" or "tf_lite_embedder"; None for others.
    """

    kind: str
    begin: int
    end: int
    model_type: str | None = None


def sections(path: Path) -> list[Section]:
    """Return the sections of a bundle, in the order of the file.

    Raises:
        ValueError: If the file is not a LiteRT-LM bundle, or is damaged.
        ImportError: If ``litert-lm-builder`` is not installed.
    """
    with named_extras():
        from litert_lm_builder import litertlm_core, litertlm_peek

    try:
        header: Any = litertlm_peek.read_litertlm_header(str(path), io.StringIO()).SectionMetadata()
        found = []
        for i in range(header.ObjectsLength()):
            part = header.Objects(i)
            kind = litertlm_core.any_section_data_type_to_string(part.DataType())
            found.append(Section(kind, part.BeginOffset(), part.EndOffset(), litertlm_peek.get_model_type(part)))
    except Exception as error:  # the flatbuffer reader raises arbitrary exceptions for a damaged file
        raise ValueError(f"path: {path} cannot be read: {error!r:.80}; accepted: a LiteRT-LM file") from error
    if any(not 0 < part.begin <= part.end <= path.stat().st_size for part in found):
        raise ValueError(f"path: {path} ends before its sections do; accepted: a whole LiteRT-LM file")
    return found


def content(path: Path, kind: str) -> bytes:
    """Return the contents of the first section of a kind, such as "TFLiteModel".

    Raises:
        ValueError: If there is no such section, or the file cannot be read.
    """
    part = section(path, kind)
    with path.open("rb") as file:
        file.seek(part.begin)
        return file.read(part.end - part.begin)


def tokenizer_text(path: Path) -> str | None:
    """Return the tokenizer.json of a bundle, or None if it has another kind of tokenizer.

    The section holds the size, in eight bytes, and the compressed text.

    Raises:
        ValueError: If it is damaged, or larger than a tokenizer may be, whatever the size of the section.
    """
    if all(part.kind != TOKENIZER for part in sections(path)):
        return None
    packed = content(path, TOKENIZER)
    try:
        opened = zlib.decompressobj()
        text = opened.decompress(packed[8:], LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        if not opened.eof or len(text) != int.from_bytes(packed[:8], "little"):
            raise ValueError(f"it has {len(text)} bytes, not those that it states")
        return text.decode()
    except (zlib.error, ValueError) as error:
        raise ValueError(f"path: {path} has a damaged tokenizer: {checks.brief(error)}; {ACCEPTED}") from error


def section(path: Path, kind: str) -> Section:
    """Return the first section of a kind. Raises the same errors as ``content``."""
    found = next((part for part in sections(path) if part.kind == kind), None)
    if found is None:
        raise ValueError(f"path: {path} has no {kind}; accepted: a bundle as export.to_litertlm writes it")
    return found


class LiteRTLMRunner(Runner):
    """The runner for a LiteRT-LM bundle, in the LiteRT-LM engine on the CPU.

    ``generate_text``, ``continuations`` and ``stream_text`` accept texts and conversations, with greedy decoding or
    sampling (`temperature`, `top_k`, `top_p`, `seed`). ``run`` and ``generate`` are not available, because the engine
    returns neither logits nor tokens. For the same reason the `ids` of a continuation are those of its text, and its
    `finish_reason` is "stop" if there are fewer of them than requested. Several threads may use one runner.

    Args:
        path: The bundle.
        threads: The number of CPU threads. Default: all cores that this process may use.

    Raises:
        ValueError: If the file is not a LiteRT-LM bundle, or is damaged.
        ImportError: If ``litert-lm-builder`` is not installed.
    """

    format = "litertlm"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads or usable_cores()
        self.opened_with = (path.absolute(), threads)
        part = section(path, "TFLiteModel")
        for model in sections(path):
            if model.kind == "TFLiteModel":
                check_model(path, model.begin, model.end)  # before the engine, which would end the process
        self.metadata = tflite_metadata(path, part.begin)
        self.files, self.graphs = {path: self.metadata}, {}
        self.said = _llm_metadata(path)
        for warning in without_fields(self.generation_defaults, "LiteRT-LM", OBEYED):
            checks.warn(f"path: {path}: {warning}")

    def __repr__(self) -> str:
        family = self.metadata.get(FAMILY, "not of attention_zoo")
        return f"<{type(self).__name__} {self.path} ({family}): texts of at most {self.said.max_num_tokens} tokens>"

    @property
    def signature(self) -> Any:
        raise self._texts_only("the engine has no arrays in and out")

    _main = layout = signature  # pyright: ignore[reportAssignmentType]

    @property
    def generates(self) -> bool:
        return True

    @property
    def stop_tokens(self) -> list[int]:
        """Ids of the tokens that end a text, as declared in the bundle."""
        return sorted(number for stop in self.said.stop_tokens for number in stop.token_ids.ids)

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Unpack[GenerateOptions]) -> np.ndarray:
        raise self._texts_only("the engine takes no ids")

    def decoder(self) -> Decoder:
        """Return an object that only has ``max_length``, the context length. Its methods raise ValueError."""
        return _Room(self)

    def continuations(self, prompts: Any, **options: Unpack[GenerateOptions]) -> list[Continuation]:
        every = [prompts] if is_single(prompts) else several(prompts)
        asked = [self._request(prompt, dict(options)) for prompt in every]
        return [self._continuation(prompt, request) for prompt, request in zip(every, asked, strict=True)]

    def stream_text(self, prompt: Any, **options: Unpack[GenerateOptions]) -> Iterator[str]:
        if not is_single(prompt):
            raise ValueError("prompt: got several for a stream; accepted: one text or conversation")
        return self._request(prompt, dict(options)).pieces()

    def _continuation(self, prompt: Any, request: _Request) -> Continuation:
        text = "".join(request.pieces())
        ids = request.tokenizer.encode(text, add_special_tokens=False).ids
        return Continuation(prompt, ids, text, "stop" if request.cut or len(ids) < request.most else "length")

    def _request(self, prompt: Any, options: dict[str, Any]) -> _Request:
        if is_ids(prompt):
            raise self._texts_only("the engine takes no ids")
        return _Request(self, prompt, options)

    @property
    def engine(self) -> Any:
        """The ``litert_lm.Engine``, made by the first request.

        Raises:
            ValueError: If LiteRT-LM cannot read the file, or this is a fork of the process that made the engine, whose
                threads it lacks.
        """
        process, engine = self._engine
        if process != os.getpid():
            raise ValueError(
                f"path: {self.path.name} was opened in process {process}, before a fork; accepted: "
                f"load('{self.path.name}') in this process, or processes that multiprocessing starts with 'spawn'"
            )
        return engine

    @functools.cached_property
    def _engine(self) -> tuple[int, Any]:
        """The process, and the engine. Its weight cache is disabled, as that would be a file next to the bundle."""
        tokenizer_text(self.path)  # which the engine decompresses without a limit
        with named_extras():
            import litert_lm

        litert_lm.set_min_log_severity(litert_lm.LogSeverity.SILENT)
        try:
            backend = litert_lm.Backend.CPU(thread_count=self.threads)
            return os.getpid(), litert_lm.Engine(os.fspath(self.path), backend=backend, cache_dir=":nocache")
        except RuntimeError as error:
            reason = checks.brief(error)
            raise ValueError(f"path: LiteRT-LM cannot run {self.path}: {reason}; {ACCEPTED}") from error

    def _texts_only(self, why: str) -> ValueError:
        return ValueError(
            f"path: got {self.path.name}, where {why}; accepted: generate_text, stream_text, or a .tflite file"
        )


class _Room:
    """A placeholder for a decoder, which provides the maximum length of a text only."""

    start_token: int | None = None
    eos_token: int | None = None
    pad_token: int | None = None

    def __init__(self, runner: LiteRTLMRunner) -> None:
        self.runner, self.max_length = runner, int(runner.said.max_num_tokens)

    def prompt(self, input_ids: Any, attention_mask: Any, room: int) -> Any:
        raise self.runner._texts_only("the engine gives no logits")

    def step(self, tokens: Any) -> Any:
        raise self.runner._texts_only("the engine gives no logits")

    def select(self, rows: Any) -> None:
        raise self.runner._texts_only("the engine gives no logits")


class _Request:
    """One request: the prompt in the form that the engine expects, and the generation options."""

    def __init__(self, runner: LiteRTLMRunner, prompt: Any, options: dict[str, Any]) -> None:
        self.runner = runner
        given = options.get("tokenizer")
        tokenizer: Tokenizer | None = runner.tokenizer if given is None else given
        if tokenizer is None:
            raise ValueError("tokenizer: got a bundle that was made elsewhere; accepted: tokenizer=…, the model's own")
        check_fits(tokenizer, runner._vocab_size)
        self.tokenizer = tokenizer
        if isinstance(prompt, str):
            text, wanted = prompt, tokenizer.encode(prompt).ids
        else:
            text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True)
            wanted = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=True)
        if not wanted:
            raise ValueError("prompts: got nothing; accepted: at least one token")
        room = runner.decoder().max_length - len(wanted)
        if room < 1:
            raise ValueError(
                f"prompts: got {len(wanted)} tokens; accepted: fewer than {runner.decoder().max_length}, as exported"
            )
        self.text, self.length = self._fed(text, wanted), len(wanted)
        added = tokenizer.backend.get_added_tokens_decoder().values()
        self.silent = [token.content for token in added if token.special]
        self.most, self.sampling, self.strings = self._chosen(options, room)
        self.cut = False  # whether a stop string ended the text

    def _chosen(self, options: dict[str, Any], room: int) -> tuple[int, dict[str, Any], list[str]]:
        known = {field.name for field in fields(Options)}
        if unknown := sorted(set(options) - known):
            raise ValueError(f"options: got {unknown}; accepted: {sorted(known)}")
        for name, default in ((field.name, field.default) for field in fields(Options) if field.name not in KNOWN):
            if options.get(name, default) != default:
                raise ValueError(f"{name}: got {options[name]!r}, which LiteRT-LM has not; accepted: {default}, {ELSE}")
        if (stops := options.get("stop_tokens")) is not None:
            raise ValueError(f"stop_tokens: got {stops!r}; accepted: None, for those in the bundle, which it stops at")
        given = {name: value for name, value in options.items() if name in KNOWN and name != "tokenizer"}
        if given.get("max_new_tokens") is None:
            given.pop("max_new_tokens", None)
        defaults = self.runner.generation_defaults | {"tokenizer": self.tokenizer}
        said = resolved(given, defaults, width=self.length, limit=self.length + room, single=True)
        most = said.get("max_new_tokens", min(MOST_NEW_TOKENS, room))
        own = {name: value for name, value in said.items() if name in KNOWN}
        checked = Options(**{**own, "max_new_tokens": most, "tokenizer": self.tokenizer})
        if checked.max_new_tokens > room:
            raise ValueError(f"max_new_tokens: got {most}; accepted: at most {room}, as exported, behind this prompt")
        strings = checked.stop_strings or []
        # Greedy decoding is top_k=1, also the engine's default. So top_k=None becomes the size of the vocabulary.
        sampling = {"top_k": 1, "top_p": 1.0, "temperature": 1.0, "seed": 0}
        if checked.temperature:
            seed = secrets.randbits(31) if checked.seed is None else checked.seed % 2**31
            every = self.runner._vocab_size or self.tokenizer.vocab_size
            sampling = {"top_k": checked.top_k or every, "top_p": 1.0 if checked.top_p is None else checked.top_p}
            sampling |= {"temperature": checked.temperature, "seed": seed}
        return checked.max_new_tokens, sampling, [strings] if isinstance(strings, str) else list(strings)

    def _fed(self, text: str, wanted: list[int]) -> str:
        """Return the text that the engine tokenizes to `wanted`: `text` with or without the tokenizer's start token.

        The engine adds no special tokens except the start token of the bundle, if it has one.

        Raises:
            ValueError: If the engine does not produce these tokens.
        """
        start = list(self.runner.said.start_token.token_ids.ids)
        first = self.tokenizer.special_tokens.get("bos_token", "")
        for candidate in (text, first + text, text.removeprefix(first)):
            if start + self.runner.engine.tokenize(candidate) == wanted:
                return candidate
        raise ValueError(
            f"prompts: got {text[:40]!r}, of which LiteRT-LM makes other tokens than the model's tokenizer; accepted: "
            f"texts that both read alike, {ELSE}"
        )

    def _said(self, piece: str) -> str:
        """Return the text of whole tokens without special tokens, which the engine includes."""
        for token in self.silent:
            piece = piece.replace(token, "")
        return piece

    def pieces(self) -> Iterator[str]:
        """Yield the continuation as it is generated, up to a stop string. A possible beginning of one is held back."""
        import litert_lm

        if not self.most:
            return
        session = self.runner.engine.create_session(
            apply_prompt_template=False,
            max_output_tokens=self.most,
            sampler_config=litert_lm.SamplerConfig(**self.sampling),
        )
        try:
            session.run_prefill([self.text])
            text, sent = "", 0
            for response in session.run_decode_async():
                text += "".join(response.texts)  # with special tokens, which a stop string may contain
                if found := [place for string in self.strings if (place := text.find(string)) >= 0]:
                    text, self.cut = text[: min(found)], True
                    break
                ready = self._said(text[: len(text) - begun(text, self.strings)])
                if len(ready) > sent:
                    yield ready[sent:]
                    sent = len(ready)
            if rest := self._said(text)[sent:]:
                yield rest
        except RuntimeError as error:
            raise ValueError(
                f"prompts: got {self.length} tokens, at which LiteRT-LM stopped ({checks.brief(error)}); accepted: "
                "fewer: the last of the pieces that a prompt is taken in must fit as a whole"
            ) from error
        finally:
            session.cancel_process()
            session.close()


def _llm_metadata(path: Path) -> Any:
    from google.protobuf.message import DecodeError

    with named_extras():
        from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

    message = LlmMetadata()
    try:
        message.ParseFromString(content(path, "LlmMetadataProto"))
    except DecodeError as error:
        raise ValueError(f"path: the metadata in {path} cannot be read; accepted: a LiteRT-LM file") from error
    return message
