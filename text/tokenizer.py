"""The class ``Tokenizer``, which encodes and decodes texts with the `tokenizers` library of Hugging Face.

Files are read as data only: nothing is unpickled, and chat templates run in Jinja's sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .chat import chat_text, check_messages, chosen_template, named_templates
from .encoding import behind_prompt, encoded_rows, id_list, input_arrays, prompt_length, row_width, with_prompt
from .gguf_vocabularies import gguf_tokenizer
from .keras_hub_vocabularies import keras_hub_tokenizer
from .languages import Languages
from .lengths import padded, row_limit, side
from .plain_tokens import NONCHARACTERS, PlainTokens
from .special_tokens import check_frame, register_special_tokens, set_frame
from .tokenizer_config import (
    check_names,
    checked_prompts,
    length_limit,
    set_lowercase,
    set_prefix_space,
    uses_token_types,
    vocabulary_size,
    with_backend_settings,
)
from .tokenizer_files import file_texts, parse_tokenizer, read_tokenizer, write_files
from .vocabularies import SPECIAL, checked, kind_of, refusing_panics

Array = np.ndarray
# Arguments of transformers' ``apply_chat_template`` that are not variables of a template.
UNKNOWN_HERE = {
    "return_tensors": "return_dict=True, for NumPy arrays",
    "return_assistant_tokens_mask": "no such argument: compare the ids with those of the conversation before an answer",
    "tokenizer_kwargs": "truncation, max_length and padding themselves",
    "conversation": "messages",
}


class Tokenizer(Languages):
    """A tokenizer with its special tokens, length limit, padding and chat templates.

    ``tokenizer(texts)`` returns a model's inputs. ``encode`` and ``decode`` convert a single text to ids and back.

    Attributes:
        backend: the underlying ``tokenizers.Tokenizer``.
        vocab_size: highest id + 1, added tokens included; a model's embedding table needs at least this many rows.
        bos_token, …, mask_token: contents of the bos, eos, unk, sep, pad, cls and mask tokens, or None.
        bos_token_id, …, mask_token_id: their ids, or None.
        model_max_length: longest row that the model accepts, special tokens included, or None.
        padding_side, truncation_side: "left" or "right".
        uses_token_types: whether ``tokenizer(texts)`` returns "token_type_ids".
        chat_templates: Jinja templates by name; the standard one is "default".
        prompts: texts by name that the model was trained to have in front of a text, such as {"query": "query: "}.
        default_prompt_name: the prompt that ``tokenizer(texts)`` prepends, or None.
        include_prompt: whether a sentence embedding pools the tokens of the prompt too. If not, ``tokenizer(texts)``
            also returns "pooling_mask".
        src_lang, tgt_lang: codes of the languages of a translation model; see ``Languages``.

    Args:
        backend: a ``tokenizers.Tokenizer``. It is not copied. Its truncation and padding settings become defaults of
            this tokenizer and are disabled in `backend`.
        config: keys of a tokenizer_config.json, as for ``load``.

    Raises:
        ValueError: a key or value that is not accepted, or a special token that is not in the vocabulary.
    """

    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    sep_token_id: int | None
    pad_token_id: int | None
    cls_token_id: int | None
    mask_token_id: int | None

    @refusing_panics
    def __init__(self, backend: Any, **config: Any) -> None:
        check_names(config)
        self.backend = backend
        self._plain_tokens: tuple[int, PlainTokens] | None = None
        config = with_backend_settings(backend, config)
        for name, (content, number) in register_special_tokens(backend, config).items():
            setattr(self, name, content)
            setattr(self, f"{name}_id", number)

        vocabulary = backend.get_vocab()
        self.vocab_size = vocabulary_size(vocabulary)
        self.model_max_length = length_limit(config["model_max_length"])
        self.padding_side = side("padding_side", config["padding_side"])
        self.truncation_side = side("truncation_side", config["truncation_side"])
        self.uses_token_types = uses_token_types(backend, config)

        self.prompts, self.default_prompt_name, self.include_prompt = checked_prompts(config)

        if config.get("lowercase"):
            set_lowercase(backend)
        set_prefix_space(backend, config.get("add_prefix_space"))
        set_frame(backend, self.special_tokens, bos=config.get("add_bos_token"), eos=config.get("add_eos_token"))
        self._set_languages(config.get("languages") or kind_of(config, None), config)
        check_frame(backend, vocabulary)
        self.chat_templates = named_templates(config.get("chat_template"))

    # Constructors and files

    @classmethod
    @refusing_panics
    def load(cls, path: str | os.PathLike[str], **config: Any) -> Tokenizer:
        """Load the tokenizer of a Hugging Face folder or of a GGUF file.

        In a folder, tokenizer.json is read if it exists. Otherwise the vocabulary is BERT's vocab.txt, or vocab.json
        and merges.txt (of GPT-2, RoBERTa, BART or Qwen2, as tokenizer_config.json or config.json specifies). The
        config is read from tokenizer_config.json, special_tokens_map.json and chat_template.jinja in the same folder.

        Args:
            path: the folder, its tokenizer.json, or a .gguf file.
            config: keys of tokenizer_config.json that replace the values in the files: ``pad_token="<|endoftext|>"``,
                ``padding_side="left"``, ``model_max_length=512``, ``add_prefix_space=True``, …

        Raises:
            ValueError: no such file, an invalid file, a special token that is not in the vocabulary, or a folder whose
                only vocabulary is a SentencePiece model.
        """
        check_names(config)
        backend, found = read_tokenizer(Path(path), config)
        return cls(backend, **found)

    @classmethod
    @refusing_panics
    def from_files(cls, files: Mapping[str, str], **config: Any) -> Tokenizer:
        """Create a tokenizer from the texts of its files, such as ``to_files`` returns.

        Args:
            files: texts by file name: tokenizer.json and optionally tokenizer_config.json, special_tokens_map.json and
                chat_template.jinja.
            config: as in ``load``.

        Raises:
            ValueError: as in ``load``.
        """
        check_names(config)
        backend, found = parse_tokenizer(files, config)
        return cls(backend, **found)

    @classmethod
    @refusing_panics
    def from_gguf(cls, fields: Mapping[str, Any], **config: Any) -> Tokenizer:
        """Create a tokenizer from the metadata of a GGUF file.

        Supported are byte-level BPE (``tokenizer.ggml.model`` is "gpt2") with the pre-tokenizer that
        ``tokenizer.ggml.pre`` names, and SentencePiece BPE ("llama"), whose merges are recovered from the scores and
        which encodes characters outside the vocabulary as bytes. `padding_side` is "left", as text generation needs.

        Args:
            fields: metadata by key: lists, strings and numbers, as ``gguf.ReaderField.contents()`` returns them.
            config: as in ``load``.

        Raises:
            ValueError: a field that is missing, of another type, or names an unsupported kind.
        """
        backend, found = gguf_tokenizer(fields)
        return cls(backend, **{**found, **config})

    @classmethod
    def from_keras_hub(cls, tokenizer: Any, **config: Any) -> Tokenizer:
        """Create a tokenizer with the vocabulary and special tokens of a KerasHub tokenizer.

        Texts are split as they were when the model was trained: for GPT-2 and RoBERTa by GPT-2's rules, even where
        KerasHub applies those of Llama 3. BERT's and RoBERTa's special tokens are added around every text and Llama 3's
        bos token before it; KerasHub leaves this to its preprocessors.

        Args:
            tokenizer: a KerasHub WordPieceTokenizer (BERT) or BytePairTokenizer, or a subclass for a known model.
            config: as in ``load``.

        Raises:
            ValueError: another object, or a tokenizer without a vocabulary.
        """
        backend, own = keras_hub_tokenizer(tokenizer)
        return cls(backend, **{**own, **config})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the files that ``load`` and transformers' ``AutoTokenizer.from_pretrained`` read.

        These are tokenizer.json, tokenizer_config.json and special_tokens_map.json, and chat_template.jinja if the
        only chat template is "default"; other chat templates are part of tokenizer_config.json.

        Args:
            folder: the folder to write to, created if it does not exist.

        Returns:
            The folder.

        Raises:
            ValueError: `folder` is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"folder: got {folder}, which is a file; accepted: a folder, made if it is not there")
        write_files(self.to_files(), folder)
        return folder

    @refusing_panics
    def to_files(self, indent: bool = True) -> dict[str, str]:
        """Return the texts that ``save`` writes, by file name. Without `indent` each JSON text is a single line."""
        return file_texts(self, indent=indent)

    # Encoding and decoding

    @property
    def special_tokens(self) -> dict[str, str]:
        """The contents of the special tokens that are set, by name: ``{"bos_token": "<s>", …}``."""
        return {name: getattr(self, name) for name in SPECIAL if getattr(self, name) is not None}

    @property
    def special_token_ids(self) -> set[int]:
        """The ids of all special tokens, named ones and others."""
        added = self.backend.get_added_tokens_decoder()
        return {number for number, token in added.items() if token.special}

    def __repr__(self) -> str:
        special = {name: getattr(self, name) for name in SPECIAL if getattr(self, name) is not None}
        said = f"vocab_size={self.vocab_size}, model_max_length={self.model_max_length}"
        said += f", padding_side={self.padding_side!r}, special={special}, chat_templates={list(self.chat_templates)}"
        return f"<{type(self).__name__} {type(self.backend.model).__name__}: {said}>"

    def __len__(self) -> int:
        return self.vocab_size

    @refusing_panics
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
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> dict[str, Array]:
        """Encode texts to the inputs of a model.

        Args:
            texts: one text or several; with `is_split_into_words`, one list of words or several.
            pairs: a second text for each text.
            max_length: longest row, special tokens included. Default: `model_max_length`.
            truncation: what to cut if a row is longer: True or "longest_first" for the longer text of a pair,
                "only_first", "only_second", or False for nothing. Tokens are cut on the tokenizer's `truncation_side`.
            padding: "longest" or True to pad to the longest row, "max_length" to pad to `max_length`, False for none.
            padding_side: "left" or "right". Default: the tokenizer's `padding_side`.
            add_special_tokens: add the special tokens that the model was trained with, such as [CLS] and [SEP].
            is_split_into_words: the texts are lists of words, for example because each word has a label.
            return_word_ids: also return "word_ids", the index of the word that each token belongs to, or -1 for
                special tokens and padding; in a pair, the words of each text are counted from 0.
            prompt: a text in front of each of `texts`; "" for none.
            prompt_name: the name of one of `prompts` instead. Default: the tokenizer's `default_prompt_name`.

        Returns:
            int32 arrays (batch, tokens): "input_ids", "attention_mask" (1 = token, 0 = padding) and, if the model has
            these inputs, "token_type_ids" (0 = first text, 1 = second text) and "pooling_mask" (0 = prompt or padding).

        Raises:
            ValueError: texts of another type, rows of unequal length without a pad token or with ``padding=False``,
                a `max_length` that cannot be met with these options, or an unknown prompt.
        """
        prompt = self._prompt(prompt, prompt_name, is_split_into_words)
        texts = with_prompt(texts, prompt)
        limit = row_limit(max_length, self.model_max_length, truncation, padding)
        padding_side = self.padding_side if padding_side is None else side("padding_side", padding_side)
        rows = encoded_rows(
            self.backend,
            texts,
            pairs,
            limit=limit,
            truncation=truncation,
            truncation_side=self.truncation_side,
            add_special_tokens=add_special_tokens,
            words=is_split_into_words,
        )
        arrays = input_arrays(
            rows,
            row_width([len(row.ids) for row in rows], limit, padding, self.pad_token_id),
            padding_side,
            pad_token_id=self.pad_token_id,
            token_types=self.uses_token_types,
            word_ids=return_word_ids,
        )
        if not self.include_prompt:
            special = self.special_token_ids
            length = prompt_length(self.backend, prompt, special, add_special_tokens=add_special_tokens)
            arrays["pooling_mask"] = behind_prompt(arrays["attention_mask"], length)
        return arrays

    def _prompt(self, prompt: str | None, name: str | None, words: bool) -> str:
        """Return the text to prepend, "" for none."""
        if prompt is not None and name is not None:
            raise ValueError(f"prompt_name: got {name!r} with a prompt; accepted: one of the two")
        if name is not None and name not in self.prompts:
            raise ValueError(f"prompt_name: got {name!r}; accepted: {list(self.prompts)}")
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"prompt: got {type(prompt).__name__}; accepted: a text")
        if prompt is None and (name := name or self.default_prompt_name) is not None:
            prompt = self.prompts[name]
        if prompt and words:
            raise ValueError(f"prompt: got {prompt!r} with is_split_into_words; accepted: '', or texts")
        return prompt or ""

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
    ) -> Any:
        """Encode one text or a pair of texts, without truncation or padding.

        Args:
            text, pair: the text, and optionally a second one.
            add_special_tokens: add the special tokens that the model was trained with.
            split_special_tokens: encode the characters of a special token in the text as ordinary text, for texts from
                others. A pair of texts cannot be split.

        Returns:
            A ``tokenizers.Encoding`` with ``.ids``, ``.tokens``, ``.offsets`` (in characters) and more.

        Raises:
            ValueError: `text` or `pair` is not a string.
        """
        for name, value in (("text", text), ("pair", pair)):
            if not isinstance(value, str) and not (name == "pair" and value is None):
                raise ValueError(f"{name}: got {type(value).__name__}; accepted: a text")
        for name, value in (("text", text), ("pair", pair or "")):
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise ValueError(f"{name}: got {value!r:.60}, with bytes that are not UTF-8; accepted: UTF-8 text")
        if split_special_tokens and pair is not None:
            raise ValueError("split_special_tokens: got True with a pair; accepted: False, or a single text")
        backend = self._plain.backend if split_special_tokens else self.backend
        text = NONCHARACTERS.sub("\ufffd", text) if split_special_tokens else text
        return checked("text", lambda: backend.encode(text, pair, add_special_tokens=add_special_tokens))

    @refusing_panics
    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """Decode one row of ids to text.

        Args:
            ids: (tokens,) integers, as a list or an array. Ids above the vocabulary, which models with a padded
                embedding table can produce, are ignored.
            skip_special_tokens: leave special tokens out of the text.

        Raises:
            ValueError: not a single row of integers, or a negative id.
        """
        return self.backend.decode(id_list(ids), skip_special_tokens=skip_special_tokens)

    def decode_batch(self, rows: Iterable[Any], skip_special_tokens: bool = True) -> list[str]:
        """Decode each row of ids; see ``decode``."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    @refusing_panics
    def apply_chat_template(
        self,
        messages: Sequence[Any],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tokenize: bool = False,
        split_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        padding: bool | str = False,
        padding_side: str | None = None,
        return_dict: bool = False,
        **variables: Any,
    ) -> Any:
        """Format a conversation with the chat template that the model was trained with.

        The template runs in Jinja's sandbox. As in transformers it can use `messages`, `tools`, the special tokens,
        ``raise_exception``, ``strftime_now`` and ``tojson``. All values that are passed to it are plain JSON.

        Args:
            messages: the messages in order, each ``{"role": "user", "content": …}``; or several conversations.
            add_generation_prompt: end with the header of the model's answer. For generation, not for training.
            continue_final_message: end behind the content of the last message, which the model then continues.
            chat_template: the name of one of `chat_templates`, or a template. Default: "tool_use" if there are `tools`
                and such a template, or else "default".
            tools: JSON schemas of functions that the model may call.
            tokenize: return ids instead of text. No special tokens are added, because the template writes them.
            split_special_tokens: encode the characters of a special token in a message, such as "<|im_end|>", as
                ordinary text, so that nobody can end their turn or write another's. Unlike in transformers this is the
                default. Requires `tokenize`; the text is the same.
            truncation, max_length, padding, padding_side: as in ``tokenizer(texts)``, with `tokenize`. Default: no
                truncation and no padding.
            return_dict: with `tokenize`, return the arrays that ``tokenizer(texts)`` returns.
            variables: further variables of the template.

        Returns:
            The text, or with `tokenize` its ids as a list; a list of them for several conversations. With
            `return_dict`, int32 arrays (conversations, tokens) "input_ids" and "attention_mask", and "token_type_ids"
            if the model has this input.

        Raises:
            ValueError: no template, messages or variables of another type, options that exclude each other, or a
                template that fails or is unsafe.
        """
        if unknown := sorted({*variables} & {*UNKNOWN_HERE}):
            raise ValueError(f"{unknown[0]}: got {variables[unknown[0]]!r}; accepted: {UNKNOWN_HERE[unknown[0]]}")
        if add_generation_prompt and continue_final_message:
            raise ValueError("continue_final_message: got True with add_generation_prompt; accepted: one of the two")
        for_ids = {"truncation": truncation, "max_length": max_length, "padding": padding, "return_dict": return_dict}
        if not tokenize and (given := [name for name, value in for_ids.items() if value]):
            raise ValueError(f"{given[0]}: got {for_ids[given[0]]!r} without tokenize; accepted: tokenize=True")
        one = isinstance(messages, list | tuple) and bool(messages) and isinstance(messages[0], Mapping)
        several = isinstance(messages, list | tuple) and bool(messages) and isinstance(messages[0], list | tuple)
        conversations = list(messages) if several else [messages]
        for conversation in conversations:
            check_messages(conversation)
        template = chosen_template(self.chat_templates, chat_template, tools=bool(tools))
        own = {"add_generation_prompt": bool(add_generation_prompt), "tools": tools, **variables}

        def render(conversation: Sequence[Mapping[str, Any]]) -> str:
            return chat_text(template, conversation, self.special_tokens, own, unfinished=continue_final_message)

        if not tokenize:
            texts = [render(conversation) for conversation in conversations]
            return texts[0] if one else texts
        limit = row_limit(max_length, self.model_max_length, truncation, padding)
        rows = [self._chat_ids(conversation, render, split_special_tokens) for conversation in conversations]
        if truncation and limit is not None:
            rows = [row[:limit] if self.truncation_side == "right" else row[-limit:] for row in rows]
        if not return_dict and not padding:
            return rows[0] if one else rows
        width = row_width([len(row) for row in rows], limit, padding, self.pad_token_id)
        padding_side = self.padding_side if padding_side is None else side("padding_side", padding_side)
        arrays = {"input_ids": padded(rows, width, self.pad_token_id or 0, padding_side)}
        if not return_dict:
            found = arrays["input_ids"].tolist()
            return found[0] if one else found
        arrays["attention_mask"] = padded([[1] * len(row) for row in rows], width, 0, padding_side)
        return arrays | ({"token_type_ids": np.zeros_like(arrays["input_ids"])} if self.uses_token_types else {})

    def _chat_ids(self, messages: Sequence[Mapping[str, Any]], render: Any, split: bool) -> list[int]:
        """Return the ids of one conversation; with `split`, special tokens in its messages are ordinary characters."""
        if split and self._plain.occur_in([{**message, "role": None} for message in messages]):
            return self._plain.encode_rendered(messages, render)
        return self.encode(render(messages), add_special_tokens=False).ids

    @property
    def _plain(self) -> PlainTokens:
        """The encoder that splits special tokens, which is made when it is first needed."""
        added = len(self.backend.get_added_tokens_decoder())
        if self._plain_tokens is None or self._plain_tokens[0] != added:
            self._plain_tokens = (added, PlainTokens(self.backend))
        return self._plain_tokens[1]
