"""Texts to ids and back, as the checkpoint's own tokenizer does it, on Hugging Face's `tokenizers` library.

Files are read as data: nothing is unpickled, and chat templates run in Jinja's sandbox.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
FILE, CONFIG_FILE, SPECIAL_FILE = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
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

# How texts are cut before byte-pair encoding, by GGUF's name for it (``llama-vocab.cpp`` of llama.cpp). The regular
# expressions are those of the tokenizer.json that Llama 3 and Qwen2 published.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPLITS: dict[str, str] = {
    **dict.fromkeys(("gpt-2", "phi-2"), ""),
    **dict.fromkeys(("smollm", "starcoder", "refact"), "digits"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _LLAMA3.replace("{1,3}", "")),
}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # GGUF's token types


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
            token = _added_token(name, config.get(name))
            content = None if token is None else token.content
            number = None if content is None else backend.token_to_id(content)
            if content is not None and number is None:
                raise ValueError(
                    f"{name}: got {content!r}, which is not in the vocabulary; accepted: one of its tokens"
                )
            setattr(self, name, content)
            setattr(self, f"{name}_id", number)
            if token is not None and content not in _contents(backend):
                backend.add_special_tokens([token])  # from now on it is found whole in texts; its id stays

        vocabulary = backend.get_vocab()
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        if not 0 < self.vocab_size < 2**31:
            raise ValueError(f"vocabulary: got ids up to {self.vocab_size - 1}; accepted: 0 to {2**31 - 1}")
        limit = config.get("model_max_length", own_limit.get("max_length"))
        if limit is not None and (not isinstance(limit, int | float) or isinstance(limit, bool) or limit < 1):
            raise ValueError(f"model_max_length: got {limit!r}; accepted: a positive integer, or None for no limit")
        self.model_max_length = None if limit is None or limit > _UNLIMITED else int(limit)
        self.padding_side = _side("padding_side", config.get("padding_side", own_padding.get("direction", "right")))
        self.truncation_side = _side(
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
        self.chat_templates = _templates(config.get("chat_template"))

    # Ways to make one

    @classmethod
    def load(cls, path: str | os.PathLike[str], **config: Any) -> Tokenizer:
        """The tokenizer of a Hugging Face folder.

        tokenizer.json is read where there is one; else BERT's vocab.txt, or vocab.json and merges.txt (GPT-2, RoBERTa
        or Qwen2, as tokenizer_config.json or config.json say). tokenizer_config.json, special_tokens_map.json and
        chat_template.jinja beside it say the rest.

        Args:
            path: the folder, or its tokenizer.json.
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
        found: dict[str, Any] = {}
        if path.is_dir() or path.name == FILE:  # a file of another name may lie anywhere
            found = {**_read_json(folder / SPECIAL_FILE), **_read_json(folder / CONFIG_FILE)}
            if (folder / TEMPLATE_FILE).is_file():
                found["chat_template"] = _read(folder / TEMPLATE_FILE)
        merged = {**found, **config}
        if file.is_file():
            backend = _checked(f"path: {file}", lambda: _backend().from_str(_read(file)))
        else:
            backend, defaults = _from_vocabulary(path, folder, merged)
            merged = {**defaults, **merged}
        _add_tokens(backend, merged.get("added_tokens_decoder"), folder)
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
        kinds = {"gpt2": _gguf_byte_level, "llama": _gguf_sentencepiece}
        kind = str(fields.get("tokenizer.ggml.model"))
        if kind not in kinds:
            raise ValueError(f"tokenizer.ggml.model: got {kind!r}; accepted: {sorted(kinds)}")
        tokens = _field(fields, "tokens", str)
        if len(set(tokens)) != len(tokens):
            raise ValueError(f"tokenizer.ggml.tokens: got {len(tokens) - len(set(tokens))} twice; accepted: each once")
        types = _field(fields, "token_type", int, [_NORMAL] * len(tokens))
        if len(types) != len(tokens):
            raise ValueError(f"tokenizer.ggml.token_type: got {len(types)}; accepted: one for each of {len(tokens)}")
        found: dict[str, Any] = {"padding_side": "left"}
        named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
        for name, key in named.items():
            number = fields.get(f"tokenizer.ggml.{key}_token_id")
            if number is None:
                continue
            if not isinstance(number, int | np.integer) or not 0 <= number < len(tokens):
                accepted = f"accepted: an integer below {len(tokens)}"
                raise ValueError(f"tokenizer.ggml.{key}_token_id: got {number!r}; {accepted}")
            found[name] = tokens[number]
        backend, adds_bos = kinds[kind](fields, tokens, types, found.get("unk_token"))
        found["add_bos_token"] = bool(fields.get("tokenizer.ggml.add_bos_token", adds_bos)) and "bos_token" in found
        found["add_eos_token"] = bool(fields.get("tokenizer.ggml.add_eos_token", False)) and "eos_token" in found
        from tokenizers import AddedToken

        for number, special in ((_CONTROL, True), (_USER_DEFINED, False)):
            added = [token for token, of in zip(tokens, types, strict=True) if of == number]
            backend.add_tokens([AddedToken(token, special=special, normalized=False) for token in added])
        prefix = "tokenizer.chat_template"
        templates = {
            key[len(prefix) + 1 :] or "default": text for key, text in fields.items() if key.startswith(prefix)
        }
        templates = {name: text for name, text in templates.items() if isinstance(text, str)}
        found["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()] or None
        found["model_max_length"] = fields.get(f"{fields.get('general.architecture')}.context_length")
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
        kinds = {parent.__name__ for parent in type(tokenizer).__mro__}
        vocabulary = getattr(tokenizer, "vocabulary", None)
        if not kinds & {"WordPieceTokenizer", "BytePairTokenizer"} or vocabulary is None:
            raise ValueError(
                f"tokenizer: got {type(tokenizer).__name__} with {'no' if vocabulary is None else 'a'} vocabulary; "
                "accepted: KerasHub's WordPieceTokenizer or BytePairTokenizer with a vocabulary"
            )
        own = {name: getattr(tokenizer, name, None) for name in SPECIAL}
        if "WordPieceTokenizer" in kinds:
            own["unk_token"] = tokenizer.oov_token
            numbered = {token: number for number, token in enumerate(vocabulary)}
            backend = _wordpiece(
                numbered,
                own,
                lowercase=tokenizer.lowercase,
                strip_accents=tokenizer.strip_accents,
                chinese=tokenizer.split_on_cjk,
                prefix=tokenizer.suffix_indicator,
            )
            return cls(backend, **{**own, **config})
        own |= {
            "bos_token": getattr(tokenizer, "start_token", None),
            "eos_token": getattr(tokenizer, "end_token", None),
        }
        splits = {"GPT2": "gpt-2", "Roberta": "gpt-2", "Bart": "gpt-2", "OPT": "gpt-2", "BytePair": "gpt-2"}
        splits |= {"Llama3": "llama-bpe", "Qwen": "qwen2", "QwenMoe": "qwen2", "Qwen3": "qwen2", "Qwen3Moe": "qwen2"}
        name = type(tokenizer).__name__.removesuffix("Tokenizer")
        if name not in splits:
            raise ValueError(f"tokenizer: got {type(tokenizer).__name__}; accepted: the tokenizers of {sorted(splits)}")
        merges = [tuple(str(merge).split(" ")) for merge in tokenizer.merges if not str(merge).startswith("#version")]
        backend = _byte_level(vocabulary, merges, splits[name], prefix_space=bool(tokenizer.add_prefix_space))
        backend.add_special_tokens([token for token in tokenizer.unsplittable_tokens or [] if token in vocabulary])
        if name in ("Roberta", "Bart"):
            own |= {"cls_token": own["bos_token"], "sep_token": own["eos_token"]}
            _roberta_frame(backend, own, bool(tokenizer.add_prefix_space))
        if name == "Llama3":
            own["add_bos_token"] = True
        return cls(backend, **{**own, **config})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write what ``load`` and transformers' ``AutoTokenizer.from_pretrained`` read.

        tokenizer.json, tokenizer_config.json, special_tokens_map.json, and chat_template.jinja where there is one.

        Raises:
            ValueError: `folder` is a file.
        """
        from ..files import written

        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"folder: got {folder}, which is a file; accepted: a folder, made if it is not there")
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
            FILE: self.backend.to_str(pretty=True),
            CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False) + "\n",
            SPECIAL_FILE: json.dumps(self.special_tokens, indent=2, ensure_ascii=False) + "\n",
        }
        if self.chat_templates and not several:
            files[TEMPLATE_FILE] = self.chat_templates["default"]
        elif (folder / TEMPLATE_FILE).is_file():
            (folder / TEMPLATE_FILE).unlink()  # of another tokenizer; it would win over this one's
        for name, text in files.items():
            with written(folder / name) as temporary:
                temporary.write_bytes(text.encode())
        return folder

    # Texts and ids

    @property
    def special_tokens(self) -> dict[str, str]:
        """Contents of the special tokens there are, by name: ``{"bos_token": "<s>", …}``."""
        return {name: getattr(self, name) for name in SPECIAL if getattr(self, name) is not None}

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
        limit = self._limit(max_length, truncation, padding)
        side = self.padding_side if padding_side is None else _side("padding_side", padding_side)
        first = self._encode("texts", texts, is_split_into_words)
        second = [None] * len(first) if pairs is None else self._encode("pairs", pairs, is_split_into_words)
        if len(second) != len(first):
            raise ValueError(f"pairs: got {len(second)}; accepted: {len(first)}, one for each text")
        framing = self.backend.num_special_tokens_to_add(pairs is not None) if add_special_tokens else 0
        rows = []
        for one, other in zip(first, second, strict=True):
            if truncation:
                self._cut(one, other, limit, framing, truncation)
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
        return {name: _padded(values, width, fill, side) for name, (values, fill) in columns.items()}

    def encode(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> Any:
        """The ``tokenizers.Encoding`` of one text, uncut: ``.ids``, ``.tokens``, ``.offsets`` (characters), ….

        Raises:
            ValueError: not a text.
        """
        for name, value in (("text", text), ("pair", pair)):
            if not isinstance(value, str) and not (name == "pair" and value is None):
                raise ValueError(f"{name}: got {type(value).__name__}; accepted: a text")
        return _checked("text", lambda: self.backend.encode(text, pair, add_special_tokens=add_special_tokens))

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
        if not isinstance(messages, list | tuple) or not messages:
            raise ValueError(
                f"messages: got {type(messages).__name__}; accepted: a list of {{'role', 'content'}}, not empty"
            )
        for message in messages:
            known = isinstance(message, Mapping) and isinstance(message.get("role"), str)
            if not known or (message.get("content") is None and not message.get("tool_calls")):
                raise ValueError(f"messages: got {message!r}; accepted: a role and a content in each")
        name = "tool_use" if tools and "tool_use" in self.chat_templates else "default"
        if name not in self.chat_templates:
            raise ValueError(f"chat_template: got {sorted(self.chat_templates)}; accepted: a tokenizer that has one")
        # What is None in a message is left out, as in transformers: templates ask whether a key is there.
        plain = [{key: value for key, value in message.items() if value is not None} for message in messages]
        given = {"messages": plain, "tools": tools, "documents": None, **variables}
        text = _render(
            self.chat_templates[name],
            {
                **self.special_tokens,
                "add_generation_prompt": add_generation_prompt,
                **{key: _plain(key, value) for key, value in given.items()},
            },
        )
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

    def _limit(self, max_length: Any, truncation: Any, padding: Any) -> int | None:
        if max_length is not None and (not isinstance(max_length, int | np.integer) or max_length < 1):
            raise ValueError(f"max_length: got {max_length!r}; accepted: a positive integer")
        if truncation not in (True, False, "longest_first", "only_first", "only_second"):
            accepted = "accepted: True, False, 'longest_first', 'only_first' or 'only_second'"
            raise ValueError(f"truncation: got {truncation!r}; {accepted}")
        if padding not in (True, False, "longest", "max_length"):
            raise ValueError(f"padding: got {padding!r}; accepted: 'longest', 'max_length', True or False")
        limit = self.model_max_length if max_length is None else int(max_length)
        if padding == "max_length" and limit is None:
            raise ValueError("max_length: got None with padding='max_length'; accepted: a positive integer")
        return limit

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
        return _checked(name, lambda: self.backend.encode_batch(batch, is_pretokenized=words, add_special_tokens=False))

    def _words_are_words(self) -> bool:
        """A word alone gives the tokens that it gives inside a text."""
        cutter = self.backend.pre_tokenizer
        if cutter is None:
            return True
        return cutter.pre_tokenize_str("a")[0][0] == cutter.pre_tokenize_str(" a")[0][0]

    def _cut(self, one: Any, other: Any, limit: int | None, framing: int, how: bool | str) -> None:
        """Truncate in place, as the library's own strategies of these names would."""
        if limit is None:
            return
        room = limit - framing
        if room < 0:
            raise ValueError(f"max_length: got {limit}; accepted: at least {framing}, for the special tokens")
        lengths = [len(one.ids), 0 if other is None else len(other.ids)]
        if sum(lengths) <= room:
            return
        if how in ("only_first", "only_second"):
            cut = int(how == "only_second")
            kept = room - lengths[1 - cut]
            if kept < 0 or (cut and other is None):
                raise ValueError(f"truncation: got {how!r} for {lengths} tokens and room for {room}; accepted: True")
            targets = [kept if number == cut else lengths[number] for number in (0, 1)]
        else:
            shorter = min(*lengths, room // 2)
            targets = [shorter, room - shorter] if lengths[0] <= lengths[1] else [room - shorter, shorter]
        for encoding, target in zip((one, other), targets, strict=True):
            if encoding is not None:
                encoding.truncate(target, direction=self.truncation_side)


def _backend() -> Any:
    from tokenizers import Tokenizer as Backend

    return Backend


def _checked(what: str, make: Any) -> Any:
    """`make`'s result; the library raises bare exceptions, and panics that are no Exception."""
    try:
        return make()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ValueError(f"{what}: got what cannot be read: {error}; accepted: a valid one") from error


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path: {file} cannot be read: {error}; accepted: a UTF-8 file") from error


def _read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; empty where there is no file."""
    if not file.is_file():
        return {}
    try:
        raw = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path: {file} is not JSON: {error}; accepted: a JSON object") from error
    if not isinstance(raw, dict):
        raise ValueError(f"path: {file} holds a {type(raw).__name__}; accepted: a JSON object")
    return raw


def _side(name: str, value: Any) -> str:
    if value not in ("left", "right"):
        raise ValueError(f"{name}: got {value!r}; accepted: 'left' or 'right'")
    return value


def _added_token(name: str, value: Any) -> Any:
    """A special token as files have it: its content, or an object with that and how it takes spaces."""
    from tokenizers import AddedToken

    if value is None or isinstance(value, str):
        return None if value is None else AddedToken(value, special=True, normalized=False)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise ValueError(f"{name}: got {value!r}; accepted: a text, or an object with 'content'")
    flags = {flag: bool(value.get(flag, False)) for flag in ("lstrip", "rstrip", "normalized", "single_word")}
    return AddedToken(value["content"], special=bool(value.get("special", True)), **flags)


def _contents(backend: Any) -> set[str]:
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def _add_tokens(backend: Any, decoder: Any, folder: Path) -> None:
    """Tokens beside the vocabulary, at the ids that `added_tokens_decoder` or an added_tokens.json gives them."""
    if decoder is not None and not isinstance(decoder, Mapping):
        raise ValueError(f"added_tokens_decoder: got {type(decoder).__name__}; accepted: an object of tokens by id")
    if decoder is None and not _contents(backend):
        decoder = {number: token for token, number in _read_json(folder / "added_tokens.json").items()}
    try:
        numbered = sorted((int(number), token) for number, token in (decoder or {}).items())
    except (TypeError, ValueError) as error:
        raise ValueError(f"added_tokens_decoder: got {error}; accepted: tokens by distinct ids") from error
    for number, value in numbered:
        token = _added_token("added_tokens_decoder", value)
        if token.content not in _contents(backend):
            backend.add_tokens([token])
        if backend.token_to_id(token.content) != number:
            actual = backend.token_to_id(token.content)
            raise ValueError(f"added_tokens_decoder: got id {number} for {token.content!r}; accepted: {actual}")


def _templates(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    named = {}
    for entry in value if isinstance(value, list | tuple) else [None]:
        pair = [entry.get(key) for key in ("name", "template")] if isinstance(entry, Mapping) else [None]
        if not all(isinstance(text, str) for text in pair):
            raise ValueError(f"chat_template: got {value!r:.80}; accepted: a text, or a list of {{'name', 'template'}}")
        named[str(pair[0])] = str(pair[1])
    return named


def _padded(rows: list[list[int]], width: int, fill: int, side: str) -> Array:
    result = np.full((len(rows), width), fill, "int32")
    for number, row in enumerate(rows):
        result[number, slice(width - len(row), None) if side == "left" else slice(len(row))] = row
    return result


# Tokenizers made of a vocabulary


def _from_vocabulary(path: Path, folder: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The backend of a folder without tokenizer.json, and the special tokens its kind has by default."""
    accepted = f"accepted: a folder with {FILE}, vocab.txt, or vocab.json and merges.txt"
    if not path.is_dir():
        raise ValueError(f"path: got {path}, where no file is; {accepted}")
    kind = str(config.get("tokenizer_class") or _read_json(folder / "config.json").get("model_type") or "")
    kind = kind.lower().removesuffix("fast").removesuffix("tokenizer")
    if (folder / "vocab.txt").is_file():
        if kind not in ("", "bert", "distilbert", "electra", "mobilebert"):
            raise ValueError(f"tokenizer_class: got {kind!r} with vocab.txt; accepted: BertTokenizer, or a {FILE}")
        defaults = {name: f"[{name[:-6].upper()}]" for name in ("unk_token", "sep_token", "pad_token", "cls_token")}
        defaults["mask_token"] = "[MASK]"
        lines = _read(folder / "vocab.txt").replace("\r\n", "\n").removesuffix("\n").split("\n")
        backend = _wordpiece(
            {token: number for number, token in enumerate(lines)},
            {**defaults, **config},
            lowercase=bool(config.get("do_lower_case", True)),
            strip_accents=config.get("strip_accents"),
            chinese=bool(config.get("tokenize_chinese_chars", True)),
        )
        return backend, defaults
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kinds = {"": "gpt-2", "gpt2": "gpt-2", "roberta": "gpt-2", "bart": "gpt-2", "qwen2": "qwen2"}
        if kind not in kinds:
            raise ValueError(
                f"tokenizer_class: got {kind!r} with vocab.json; accepted: {sorted(kinds)[1:]}, or a {FILE}"
            )
        vocabulary = _read_json(folder / "vocab.json")
        lines = _read(folder / "merges.txt").replace("\r\n", "\n").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        prefix_space = bool(config.get("add_prefix_space", False))
        backend = _byte_level(vocabulary, merges, kinds[kind], prefix_space=prefix_space)
        defaults: dict[str, Any] = {}
        if kind in ("roberta", "bart"):
            defaults = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
            defaults |= {"unk_token": "<unk>", "pad_token": "<pad>"}
            defaults["mask_token"] = {"content": "<mask>", "lstrip": True}
            _roberta_frame(backend, {**defaults, **config}, prefix_space)
        elif "<|endoftext|>" in vocabulary:
            names = ("eos_token", "pad_token") if kind == "qwen2" else ("bos_token", "eos_token", "unk_token")
            defaults = dict.fromkeys(names, "<|endoftext|>")
        return backend, defaults
    if pieces := [file.name for file in folder.iterdir() if file.suffix in (".model", ".spm")]:
        raise ValueError(
            f"path: got {folder} with {sorted(pieces)}, SentencePiece models, and no {FILE}; accepted: a folder with "
            f"{FILE}, which transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…) writes"
        )
    raise ValueError(f"path: got {folder} without a tokenizer; {accepted}")


def _wordpiece(
    vocabulary: Mapping[str, int],
    special: Mapping[str, Any],
    *,
    lowercase: bool,
    strip_accents: bool | None,
    chinese: bool,
    prefix: str = "##",
) -> Any:
    """BERT's (Devlin et al. 2019): cleaned, split at spaces and punctuation, then the longest pieces first."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    unk, cls, sep = (_content(name, special.get(name)) for name in ("unk_token", "cls_token", "sep_token"))
    backend = _backend()(models.WordPiece(dict(vocabulary), unk_token=unk or "[UNK]", continuing_subword_prefix=prefix))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=prefix)
    if cls is not None and sep is not None:
        _known(vocabulary, cls_token=cls, sep_token=sep)
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(token, vocabulary[token]) for token in {cls, sep}],
        )
    return backend


def _byte_level(vocabulary: Mapping[str, Any], merges: Sequence[Any], pre: str, *, prefix_space: bool = False) -> Any:
    """GPT-2's byte-pair encoding of UTF-8 bytes (Radford et al. 2019), cut beforehand as `pre` says."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    split = _SPLITS[pre]
    whole = split == _LLAMA3  # a piece that is a token itself is taken as it is, whatever the merges would make of it

    def make() -> Any:
        return models.BPE(vocab=dict(vocabulary), merges=list(merges), fuse_unk=False, ignore_merges=whole)

    backend = _backend()(_checked("vocabulary and merges", make))
    if split in ("", "digits"):
        cutter: Any = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
        if split:
            cutter = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cutter])
    else:
        bytewise = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False)
        cutter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), behavior="isolated"), bytewise])
    backend.pre_tokenizer = cutter
    if split == _SPLITS["qwen2"]:
        backend.normalizer = normalizers.NFC()  # as Qwen2 was trained
    backend.decoder = decoders.ByteLevel()
    return backend


def _roberta_frame(backend: Any, special: Mapping[str, Any], prefix_space: bool) -> None:
    """<s> A </s>, and <s> A </s></s> B </s>."""
    from tokenizers.processors import RobertaProcessing

    cls, sep = (_content(name, special.get(name)) or "" for name in ("cls_token", "sep_token"))
    vocabulary = backend.get_vocab()
    _known(vocabulary, cls_token=cls, sep_token=sep)
    backend.post_processor = RobertaProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls]), trim_offsets=True, add_prefix_space=prefix_space
    )


def _content(name: str, value: Any) -> str | None:
    token = _added_token(name, value)
    return None if token is None else token.content


def _known(vocabulary: Mapping[str, Any], **tokens: str | None) -> None:
    for name, token in tokens.items():
        if token not in vocabulary:
            raise ValueError(f"{name}: got {token!r}, which is not in the vocabulary; accepted: one of its tokens")


# GGUF


def _field(fields: Mapping[str, Any], name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
    values = fields.get(f"tokenizer.ggml.{name}", default)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    kinds = {int: int | np.integer, float: int | float | np.number}.get(kind, kind)
    if not isinstance(values, list | tuple) or not all(isinstance(value, kinds) for value in values):
        got = type(values).__name__
        raise ValueError(f"tokenizer.ggml.{name}: got {got}; accepted: a list of {kind.__name__}")
    return list(values)


def _gguf_byte_level(
    fields: Mapping[str, Any], tokens: list[str], types: list[int], unk: str | None
) -> tuple[Any, bool]:
    """The backend, and whether it sets bos in front where the file does not say."""
    pre = str(fields.get("tokenizer.ggml.pre"))
    if pre not in _SPLITS:
        raise ValueError(f"tokenizer.ggml.pre: got {pre!r}; accepted: {sorted(_SPLITS)}")
    merges = [tuple(merge.split(" ")) for merge in _field(fields, "merges", str)]
    return _byte_level({token: n for n, token in enumerate(tokens)}, merges, pre), _SPLITS[pre] == _LLAMA3


def _gguf_sentencepiece(
    fields: Mapping[str, Any], tokens: list[str], types: list[int], unk: str | None
) -> tuple[Any, bool]:
    """Llama's: SentencePiece's BPE (Kudo & Richardson 2018), whose files keep scores and no merges.

    Every way to cut a piece into two others is a merge, the best-scored pieces first, as transformers recovers them.
    A space goes in front of every text, also behind a special token, as in SentencePiece and llama.cpp.
    """
    from tokenizers import decoders, models, normalizers

    vocabulary = {token: number for number, token in enumerate(tokens)}
    scores = _field(fields, "scores", float)
    if len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores: got {len(scores)}; accepted: one for each of {len(tokens)} tokens")
    normal = {token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind == _NORMAL}
    merges = [
        (-score, len(token[:cut]), len(token[cut:]), vocabulary[token[:cut]], vocabulary[token[cut:]])
        for token, score in normal.items()
        for cut in range(1, len(token))
        if token[:cut] in normal and token[cut:] in normal
    ]
    pairs = [(tokens[left], tokens[right]) for *_, left, right in sorted(merges)]
    unk = unk or next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    model = _checked(
        "tokenizer.ggml.tokens",
        lambda: models.BPE(vocab=vocabulary, merges=pairs, unk_token=unk, fuse_unk=True, byte_fallback=True),
    )
    backend = _backend()(model)
    space = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    steps = [normalizers.Prepend("▁")] * space + [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(steps)
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(undo + [decoders.Strip(" ", 1, 0)] * space)
    return backend, True


# Chat templates


def _plain(name: str, value: Any) -> Any:
    """A copy made of JSON's types: other objects have methods that the sandbox knows nothing of."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name}: got what is not JSON: {error}; accepted: texts, numbers, lists, objects") from error


def _render(template: str, variables: Mapping[str, Any]) -> str:
    """The text that a template of a stranger makes, in transformers' environment (``utils/chat_template_utils.py``)."""
    from datetime import datetime

    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"access to attribute {attribute!r}")  # Jinja's would print as nothing

    class Generation(Extension):
        """``{% generation %}`` marks what the model wrote, for training; it prints its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: Any) -> None:
        raise TemplateError(str(message))

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        return environment.from_string(template).render(variables)
    except Exception as error:  # a template may fail in any way that Python can
        kind = type(error).__name__
        raise ValueError(
            f"chat_template: got {kind}: {error}; accepted: a template that takes these messages"
        ) from error
