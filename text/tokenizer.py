"""Texts to ids and back, as the checkpoint's own tokenizer does it, on Hugging Face's `tokenizers` library.

Files are read as data: nothing is unpickled, and chat templates run in Jinja's sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .chat import chat_text, named_templates
from .encoding import encoded_rows, id_list, input_arrays, row_width
from .gguf_vocabularies import gguf_tokenizer
from .keras_hub_vocabularies import keras_hub_tokenizer
from .lengths import row_limit, side
from .special_tokens import check_frame, register_special_tokens, set_frame
from .tokenizer_config import (
    check_names,
    length_limit,
    set_prefix_space,
    uses_token_types,
    vocabulary_size,
    with_backend_settings,
)
from .tokenizer_files import file_texts, parse_tokenizer, read_tokenizer, write_files
from .vocabularies import SPECIAL, checked

Array = np.ndarray


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
        check_names(config)
        self.backend = backend
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

        set_prefix_space(backend, config.get("add_prefix_space"))
        bos, eos = config.get("add_bos_token"), config.get("add_eos_token")
        if bos is not None or eos is not None:
            set_frame(backend, self.special_tokens, bos=bool(bos), eos=bool(eos))
        check_frame(backend, vocabulary)
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
        check_names(config)
        backend, found = read_tokenizer(Path(path), config)
        return cls(backend, **found)

    @classmethod
    def from_files(cls, files: Mapping[str, str], **config: Any) -> Tokenizer:
        """The tokenizer of ``to_files``: the texts of tokenizer.json and what stands beside it, by name.

        Raises:
            ValueError: as ``load``.
        """
        backend, found = parse_tokenizer(files, config)
        return cls(backend, **found)

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
        write_files(self.to_files(), folder)
        return folder

    def to_files(self, indent: bool = True) -> dict[str, str]:
        """The texts that ``save`` writes, by the name of the file; without `indent` on as few lines as can be."""
        return file_texts(self, indent=indent)

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
        return input_arrays(
            rows,
            row_width(rows, limit, padding, self.pad_token_id),
            padding_side,
            pad_token_id=self.pad_token_id,
            token_types=self.uses_token_types,
            word_ids=return_word_ids,
        )

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
        return self.backend.decode(id_list(ids), skip_special_tokens=skip_special_tokens)

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
