"""Texts to ids and back, as the checkpoint's own tokenizer does it, on Hugging Face's `tokenizers` library.

Files are read as data: nothing is unpickled, and chat templates run in Jinja's sandbox.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import is_number
from ..files import LARGEST_JSON, read_text, written
from ..weights.gguf_file import GGUFFile
from .chat import chat_text, named_templates
from .gguf_vocabularies import gguf_tokenizer
from .keras_hub_vocabularies import keras_hub_tokenizer
from .lengths import padded, row_limit, side, truncate
from .vocabularies import (
    FILE,
    LARGEST,
    SPECIAL,
    add_tokens,
    added_contents,
    added_token,
    backend_class,
    checked,
    json_of,
    vocabulary_tokenizer,
)

Array = np.ndarray
CONFIG_FILE, SPECIAL_FILE = "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
_OPTIONS = (
    *SPECIAL,
    "model_max_length",
    "padding_side",
    "truncation_side",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "model_input_names",
    "chat_template",
    "tokenizer_class",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
)
_UNLIMITED = 10**9  # Hugging Face writes "no limit" as some enormous number


class Tokenizer:
    """A tokenizer with its special tokens, limits, padding and chat template.

    ``tokenizer(texts)`` gives a model's inputs; ``encode`` and ``decode`` one text's ids and back.

    Attributes:
        backend: the ``tokenizers.Tokenizer`` underneath.
        vocab_size: highest id + 1, added tokens included: the rows that a model's table needs at the least.
        bos_token, …, mask_token: contents of bos, eos, unk, sep, pad, cls and mask, or None.
        bos_token_id, …, mask_token_id: their ids, or None.
        model_max_length: longest row the model takes, special tokens included, or None.
        padding_side, truncation_side: "left" or "right".
        chat_templates: Jinja templates by name; the usual one is "default".

    Args:
        backend: a ``tokenizers.Tokenizer``. It is kept, not copied; its own truncation and padding become the defaults
            here and are switched off there.
        config: keys of a tokenizer_config.json, as ``load`` takes them.

    Raises:
        ValueError: a key or value that is not accepted, or a special token that the vocabulary has not.
    """

    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    sep_token_id: int | None
    pad_token_id: int | None
    cls_token_id: int | None
    mask_token_id: int | None

    def __init__(self, backend: Any, **config: Any) -> None:
        if unknown := sorted(set(config) - set(_OPTIONS)):
            raise ValueError(f"config: got {unknown}; accepted: {list(_OPTIONS)}")
        self.backend = backend
        own_limit, own_padding = backend.truncation or {}, backend.padding or {}
        backend.no_truncation()
        backend.no_padding()

        if config.get("pad_token") is None and own_padding.get("pad_token") in backend.get_vocab():
            config["pad_token"] = own_padding["pad_token"]
        for name in SPECIAL:
            token = added_token(name, config.get(name))
            content = None if token is None else token.content
            number = None if content is None else backend.token_to_id(content)
            if content is not None and number is None:
                raise ValueError(
                    f"{name}: got {content!r}, which is not in the vocabulary; accepted: one of its tokens"
                )
            setattr(self, name, content)
            setattr(self, f"{name}_id", number)
            if token is not None and content not in added_contents(backend):
                backend.add_special_tokens([token])  # from now on it is found whole in texts; its id stays

        vocabulary = backend.get_vocab()
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        if not 0 < self.vocab_size < 2**31:
            raise ValueError(f"vocabulary: got ids up to {self.vocab_size - 1}; accepted: 0 to {2**31 - 1}")
        limit = config.get("model_max_length", own_limit.get("max_length"))
        if limit is not None and (not is_number(limit) or not limit >= 1):
            raise ValueError(f"model_max_length: got {limit!r}; accepted: a positive integer, or None for no limit")
        self.model_max_length = None if limit is None or limit > _UNLIMITED else int(limit)
        self.padding_side = side("padding_side", config.get("padding_side", own_padding.get("direction", "right")))
        self.truncation_side = side(
            "truncation_side", config.get("truncation_side", own_limit.get("direction", "right"))
        )

        names = config.get("model_input_names")
        if names is None:  # BERT's segments; DistilBERT and MPNet share its vocabulary and have none
            kind = str(config.get("tokenizer_class") or "Bert")
            segments = type(backend.model).__name__ == "WordPiece" and not kind.startswith(("DistilBert", "MPNet"))
            names = ["token_type_ids"] * segments
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"model_input_names: got {names!r}; accepted: a list of names")
        self.uses_token_types = "token_type_ids" in names

        before = backend.pre_tokenizer
        if config.get("add_prefix_space") is not None and type(before).__name__ == "ByteLevel":
            before.add_prefix_space = bool(config["add_prefix_space"])
            backend.pre_tokenizer = before
        if config.get("add_bos_token") is not None or config.get("add_eos_token") is not None:
            self._frame(bool(config.get("add_bos_token")), bool(config.get("add_eos_token")))
        framed = {*backend.encode("").ids, *backend.encode("", "").ids}
        if surplus := sorted(framed - set(vocabulary.values())):
            raise ValueError(f"post_processor: got ids {surplus}; accepted: ids of the vocabulary")
        self.chat_templates = named_templates(config.get("chat_template"))

    # Ways to make one

    @classmethod
    def load(cls, path: str | os.PathLike[str], **config: Any) -> Tokenizer:
        """The tokenizer of a Hugging Face folder, or of a GGUF file.

        tokenizer.json is read where there is one; else BERT's vocab.txt, or vocab.json and merges.txt (GPT-2, RoBERTa
        or Qwen2, as tokenizer_config.json or config.json say). tokenizer_config.json, special_tokens_map.json and
        chat_template.jinja beside it say the rest.

        Args:
            path: the folder, or its tokenizer.json, or a .gguf file.
            config: keys of tokenizer_config.json, in the place of what is there: ``pad_token="<|endoftext|>"``,
                ``padding_side="left"``, ``model_max_length=512``, ``add_prefix_space=True``, …

        Raises:
            ValueError: no such file, a file that is not what it should be, a special token that the vocabulary has
                not, or a SentencePiece model alone.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        file = folder / FILE if path.is_dir() else path
        if unknown := sorted(set(config) - set(_OPTIONS)):
            raise ValueError(f"config: got {unknown}; accepted: {list(_OPTIONS)}")
        if path.suffix == ".gguf" and path.is_file():
            return cls.from_gguf(GGUFFile(path).fields, **config)
        found: dict[str, Any] = {}
        if path.is_dir() or path.name == FILE:  # a file of another name may lie anywhere
            found = {**json_of(folder / SPECIAL_FILE, LARGEST_JSON), **json_of(folder / CONFIG_FILE, LARGEST_JSON)}
            if (folder / TEMPLATE_FILE).is_file():
                found["chat_template"] = read_text(folder / TEMPLATE_FILE, most=LARGEST_JSON)
        merged = {**found, **config}
        if file.is_file():
            text = read_text(file, most=LARGEST)
            backend = checked(f"path: {file}", lambda: backend_class().from_str(text))
        else:
            backend, defaults = vocabulary_tokenizer(path, folder, merged)
            merged = {**defaults, **merged}
        add_tokens(backend, merged.get("added_tokens_decoder"), folder)
        return cls(backend, **{name: merged[name] for name in _OPTIONS if name in merged})

    @classmethod
    def from_files(cls, files: Mapping[str, str], **config: Any) -> Tokenizer:
        """The tokenizer of ``to_files``: the texts of tokenizer.json and what stands beside it, by name.

        Raises:
            ValueError: as ``load``.
        """
        merged: dict[str, Any] = {}
        for name in (SPECIAL_FILE, CONFIG_FILE):
            said = checked(name, functools.partial(json.loads, files.get(name, "{}")))
            if not isinstance(said, dict):
                raise ValueError(f"{name}: got a {type(said).__name__}; accepted: a JSON object")
            merged |= said
        if TEMPLATE_FILE in files:
            merged["chat_template"] = files[TEMPLATE_FILE]
        backend = checked(FILE, lambda: backend_class().from_str(files[FILE]))
        merged |= config
        add_tokens(backend, merged.get("added_tokens_decoder"), None)
        return cls(backend, **{name: merged[name] for name in _OPTIONS if name in merged})

    @classmethod
    def from_gguf(cls, fields: Mapping[str, Any], **config: Any) -> Tokenizer:
        """The tokenizer in a GGUF file's metadata.

        Byte-level BPE (``tokenizer.ggml.model`` "gpt2") with the pre-tokenizer that ``tokenizer.ggml.pre`` names, or
        SentencePiece's BPE ("llama") with its merges recovered from the scores and bytes for what it lacks. It pads on
        the left, as a model that continues texts wants it.

        Args:
            fields: metadata by key: lists, strings and numbers, as ``gguf.ReaderField.contents()`` gives them.
            config: as in ``load``.

        Raises:
            ValueError: a field that is missing, of another type, or names a kind that is not known.
        """
        backend, found = gguf_tokenizer(fields)
        return cls(backend, **{**found, **config})

    @classmethod
    def from_keras_hub(cls, tokenizer: Any, **config: Any) -> Tokenizer:
        """The same vocabulary as a KerasHub WordPieceTokenizer (BERT's) or BytePairTokenizer, with its special tokens.

        Texts are cut as the model was trained on them: GPT-2's and RoBERTa's by GPT-2's rules, also where KerasHub
        applies those of Llama 3. BERT and RoBERTa get their frame of special tokens, Llama 3 its first one; KerasHub
        leaves that to its preprocessors.

        Raises:
            ValueError: another object, or a tokenizer without a vocabulary.
        """
        backend, own = keras_hub_tokenizer(tokenizer)
        return cls(backend, **{**own, **config})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write what ``load`` and transformers' ``AutoTokenizer.from_pretrained`` read.

        tokenizer.json, tokenizer_config.json, special_tokens_map.json, and chat_template.jinja where there is one.

        Raises:
            ValueError: `folder` is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"folder: got {folder}, which is a file; accepted: a folder, made if it is not there")
        files = self.to_files()
        if TEMPLATE_FILE not in files and (folder / TEMPLATE_FILE).is_file():
            (folder / TEMPLATE_FILE).unlink()  # of another tokenizer; it would win over this one's
        for name, text in files.items():
            with written(folder / name) as temporary:
                temporary.write_bytes(text.encode())
        return folder

    def to_files(self, indent: bool = True) -> dict[str, str]:
        """The texts that ``save`` writes, by the name of the file; without `indent` on as few lines as can be."""
        names = ["input_ids", *["token_type_ids"] * self.uses_token_types, "attention_mask"]
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special_tokens,
            **({} if self.model_max_length is None else {"model_max_length": self.model_max_length}),
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": names,
            "clean_up_tokenization_spaces": False,
        }
        several = set(self.chat_templates) - {"default"}
        if several:
            config["chat_template"] = [{"name": name, "template": text} for name, text in self.chat_templates.items()]
        files = {
            FILE: self.backend.to_str(pretty=indent),
            CONFIG_FILE: json.dumps(config, indent=2 if indent else None, ensure_ascii=False) + "\n",
            SPECIAL_FILE: json.dumps(self.special_tokens, indent=2 if indent else None, ensure_ascii=False) + "\n",
        }
        if self.chat_templates and not several:
            files[TEMPLATE_FILE] = self.chat_templates["default"]
        return files

    # Texts and ids

    @property
    def special_tokens(self) -> dict[str, str]:
        """Contents of the special tokens there are, by name: ``{"bos_token": "<s>", …}``."""
        return {name: getattr(self, name) for name in SPECIAL if getattr(self, name) is not None}

    def __repr__(self) -> str:
        special = {name: getattr(self, name) for name in SPECIAL if getattr(self, name) is not None}
        said = f"vocab_size={self.vocab_size}, model_max_length={self.model_max_length}"
        said += f", padding_side={self.padding_side!r}, special={special}, chat_templates={list(self.chat_templates)}"
        return f"<{type(self).__name__} {type(self.backend.model).__name__}: {said}>"

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(
        self,
        texts: str | Sequence[Any],
        pairs: str | Sequence[Any] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool | str = True,
        padding: bool | str = "longest",
        padding_side: str | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
        return_word_ids: bool = False,
    ) -> dict[str, Array]:
        """A model's inputs.

        Args:
            texts: one text, or several; with `is_split_into_words` a list of words, or several such lists.
            pairs: a second text for each.
            max_length: longest row, special tokens included. Default: `model_max_length`.
            truncation: what is cut where a row is longer: True or "longest_first" from the longer of a pair,
                "only_first", "only_second", or False for nothing. It is cut on `truncation_side`.
            padding: "longest" (or True) to the longest row, "max_length" to `max_length`, False for none.
            padding_side: "left" or "right" in the place of the tokenizer's.
            add_special_tokens: [CLS] and [SEP], a first <s>, … as the model was trained with.
            is_split_into_words: the texts are lists of words, to which labels may belong.
            return_word_ids: also "word_ids", the number of the word that each token is of, -1 for special tokens and
                padding; in a pair each text counts for itself.

        Returns:
            int32 arrays (batch, tokens): "input_ids", "attention_mask" (1 = token, 0 = padding), and "token_type_ids"
            (0 for the first text and 1 for the second) where the model has them.

        Raises:
            ValueError: texts of another kind, rows of unequal length without a pad token or with ``padding=False``,
                or a `max_length` that cannot be kept.
        """
        limit = row_limit(max_length, self.model_max_length, truncation, padding)
        padding_side = self.padding_side if padding_side is None else side("padding_side", padding_side)
        first = self._encode("texts", texts, is_split_into_words)
        second = [None] * len(first) if pairs is None else self._encode("pairs", pairs, is_split_into_words)
        if len(second) != len(first):
            raise ValueError(f"pairs: got {len(second)}; accepted: {len(first)}, one for each text")
        framing = self.backend.num_special_tokens_to_add(pairs is not None) if add_special_tokens else 0
        rows = []
        for one, other in zip(first, second, strict=True):
            if truncation:
                truncate(one, other, limit, framing, truncation, self.truncation_side)
            rows.append(self.backend.post_process(one, other, add_special_tokens))
        width = max(len(row.ids) for row in rows)
        if padding == "max_length" and limit is not None:
            if width > limit:
                raise ValueError(
                    f"truncation: got False for {width} tokens; accepted: True, to keep max_length={limit}"
                )
            width = limit
        short = [len(row.ids) for row in rows if len(row.ids) < width]
        if short and not padding:
            raise ValueError(f"padding: got False for rows of {min(short)} to {width} tokens; accepted: 'longest'")
        if short and self.pad_token_id is None:
            raise ValueError(
                f"padding: got {padding!r} for rows of {min(short)} to {width} tokens, without a pad token; accepted: "
                'rows of one length, or a tokenizer with one, as load(path, pad_token="…") gives it'
            )
        columns = {"input_ids": ([row.ids for row in rows], self.pad_token_id or 0)}
        columns["attention_mask"] = ([[1] * len(row.ids) for row in rows], 0)
        if self.uses_token_types:
            columns["token_type_ids"] = ([row.type_ids for row in rows], 0)
        if return_word_ids:
            columns["word_ids"] = ([[-1 if word is None else word for word in row.word_ids] for row in rows], -1)
        return {name: padded(values, width, fill, padding_side) for name, (values, fill) in columns.items()}

    def encode(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> Any:
        """The ``tokenizers.Encoding`` of one text, uncut: ``.ids``, ``.tokens``, ``.offsets`` (characters), ….

        Raises:
            ValueError: not a text.
        """
        for name, value in (("text", text), ("pair", pair)):
            if not isinstance(value, str) and not (name == "pair" and value is None):
                raise ValueError(f"{name}: got {type(value).__name__}; accepted: a text")
        return checked("text", lambda: self.backend.encode(text, pair, add_special_tokens=add_special_tokens))

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """The text of ids (tokens,): a list or an array. Ids above the vocabulary's, of a padded table, give nothing.

        Raises:
            ValueError: not one row of whole numbers, or a negative one.
        """
        try:
            array = np.asarray(ids)
        except ValueError:
            array = np.empty((0, 0))
        array = array.astype("int64") if not array.size and array.ndim == 1 else np.atleast_1d(array)
        if (
            array.ndim != 1
            or array.dtype.kind not in "iu"
            or (array.size and not 0 <= array.min() <= array.max() < 2**32)
        ):
            raise ValueError(f"ids: got {array.dtype} of shape {array.shape}; accepted: one row of ids of 0 and above")
        return self.backend.decode(array.tolist(), skip_special_tokens=skip_special_tokens)

    def decode_batch(self, rows: Iterable[Any], skip_special_tokens: bool = True) -> list[str]:
        """The text of each row of ids; see ``decode``."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tokenize: bool = False,
        **variables: Any,
    ) -> Any:
        """A conversation as the model was trained to read it.

        The template runs in Jinja's sandbox with what transformers gives it: `messages`, `tools`, the special tokens,
        ``raise_exception``, ``strftime_now`` and ``tojson``. Everything it sees is plain JSON.

        Args:
            messages: ``{"role": "user", "content": …}`` each, in order.
            add_generation_prompt: end with the beginning of the model's answer.
            tools: JSON schemas of functions that the model may call.
            tokenize: give ids rather than text. The template writes the special tokens, so none are added.
            variables: what the template knows besides.

        Returns:
            The text, or with `tokenize` its ids as a list.

        Raises:
            ValueError: no template, messages or variables of another kind, a template that fails or is not safe.
        """
        given = {"add_generation_prompt": bool(add_generation_prompt), "tools": tools, **variables}
        text = chat_text(self.chat_templates, messages, self.special_tokens, given)
        return self.encode(text, add_special_tokens=False).ids if tokenize else text

    # The parts of __call__ and __init__

    def _frame(self, bos: bool, eos: bool) -> None:
        """Set bos before and eos behind every text, as transformers does where the config speaks of them."""
        from tokenizers.processors import TemplateProcessing

        for wanted, name in ((bos, "bos_token"), (eos, "eos_token")):
            if wanted and getattr(self, name) is None:
                raise ValueError(f"add_{name}: got True without a {name}; accepted: False, or a {name}")
        before = [self.special_tokens["bos_token"]] if bos else []
        behind = [self.special_tokens["eos_token"]] if eos else []
        parts = [
            [f"{token}:{n}" for token in before] + [f"${'AB'[n]}:{n}"] + [f"{t}:{n}" for t in behind] for n in (0, 1)
        ]
        self.backend.post_processor = TemplateProcessing(
            single=parts[0],
            pair=parts[0] + parts[1],
            special_tokens=[(token, self.backend.token_to_id(token)) for token in {*before, *behind}],
        )

    def _encode(self, name: str, texts: Any, words: bool) -> list[Any]:
        """Encodings without special tokens."""
        accepted = "lists of words" if words else "a text or texts"
        if words:
            single = isinstance(texts, list | tuple) and bool(texts) and all(isinstance(word, str) for word in texts)
        else:
            single = isinstance(texts, str)
        rows = [texts] if single else texts
        if not isinstance(rows, list | tuple | np.ndarray) or not len(rows):
            raise ValueError(f"{name}: got {type(texts).__name__}, or nothing; accepted: {accepted}")
        rows = [list(row) if words and isinstance(row, list | tuple | np.ndarray) else row for row in rows]
        for row in rows:
            if not (
                isinstance(row, list) and all(isinstance(word, str) for word in row) if words else isinstance(row, str)
            ):
                raise ValueError(f"{name}: got {type(row).__name__} {row!r:.80}; accepted: {accepted}")
        if words and not self._words_are_words():
            raise ValueError(
                "is_split_into_words: got True for a tokenizer that writes spaces as a part of words; accepted: False, "
                "or a GPT-2 or RoBERTa tokenizer loaded with add_prefix_space=True"
            )
        batch = [str(row) for row in rows] if not words else rows
        return checked(name, lambda: self.backend.encode_batch(batch, is_pretokenized=words, add_special_tokens=False))

    def _words_are_words(self) -> bool:
        """A word alone gives the tokens that it gives inside a text."""
        cutter = self.backend.pre_tokenizer
        if cutter is None:
            return True
        return cutter.pre_tokenize_str("a")[0][0] == cutter.pre_tokenize_str(" a")[0][0]
