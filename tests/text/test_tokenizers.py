"""Tokenizers compared with independent implementations.

These are BERT's published example, byte-pair encoding in plain Python, SentencePiece, KerasHub, and truncation and
padding by the `tokenizers` library.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_zoo.text.tokenizer import Tokenizer
from helpers import python

TEXTS = [
    "Hello world, hello again",
    "It's the 1st of 12345 days, 3.14159 and 007!",
    "don't DON'T they're I'm we've she'd he'LL",
    "café – “quotes” … ½ ² ٣٤",
    "中文 한국어 Привет αβγ",
    "emoji 🙂👍🏽 👨‍👩‍👧",
    "line\nbreak\n\n\nand\ttabs\r\n  end  ",
    "   leading and     runs of spaces   ",
    "",
    " ",
    "def f(x):\n    return x**2  # comment",
    "\u00a0nbsp\u2003em\x00\x7f",
    "12 days 123 days 1234567",
]

# BERT


# vocabulary and example from tokenization_test.py in google-research/bert
GOOGLE = ["[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", ",", "[PAD]", "[MASK]"]


def bert_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in GOOGLE))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_wordpiece_is_berts_own_example(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert_folder(tmp_path, do_lower_case=True, model_max_length=10**30))
    inputs = tokenizer("UNwant\u00e9d,running")
    assert {name: (array.dtype, array.tolist()) for name, array in inputs.items()} == {
        "input_ids": ("int32", [[1, 7, 4, 5, 10, 8, 9, 2]]),
        "attention_mask": ("int32", [[1] * 8]),
        "token_type_ids": ("int32", [[0] * 8]),
    }
    assert (tokenizer.vocab_size, tokenizer.model_max_length) == (13, None)
    named = {
        name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    }
    assert named == {"bos": None, "eos": None, "unk": 0, "sep": 2, "pad": 11, "cls": 1, "mask": 12}
    assert tokenizer.encode("running [MASK] [SEP]", add_special_tokens=False).ids == [8, 9, 12, 2]
    assert tokenizer.decode([1, 7, 4, 5, 10, 8, 9, 2, 11]) == "unwanted, running"
    assert tokenizer.decode(np.array([8, 9, 2]), skip_special_tokens=False) == "running [SEP]"
    assert tokenizer.decode_batch([[6], [3, 5]]) == ["wa", "wanted"]
    cased = Tokenizer.load(bert_folder(tmp_path, do_lower_case=False))
    assert cased.encode("UNwanted want\u00e9d", add_special_tokens=False).ids == [0, 0]
    accents = Tokenizer.load(bert_folder(tmp_path, do_lower_case=True, strip_accents=False))
    assert accents.encode("UNwant\u00e9d UNwanted", add_special_tokens=False).ids == [0, 7, 4, 5]


def test_pairs_and_padding(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path)
    texts, pairs = ["running wanted", "un"], ["want", "wa , un"]
    inputs = Tokenizer.load(folder)(texts, pairs)
    assert inputs["input_ids"].tolist() == [[1, 8, 9, 3, 5, 2, 3, 2], [1, 7, 2, 6, 10, 7, 2, 11]]
    assert inputs["attention_mask"].tolist() == [[1] * 8, [1] * 7 + [0]]
    assert inputs["token_type_ids"].tolist() == [[0] * 6 + [1] * 2, [0] * 3 + [1] * 4 + [0]]
    left = Tokenizer.load(folder, padding_side="left")(texts, pairs, padding="max_length", max_length=9)
    assert left["input_ids"].tolist() == [[11, 1, 8, 9, 3, 5, 2, 3, 2], [11, 11, 1, 7, 2, 6, 10, 7, 2]]
    assert left["attention_mask"].tolist() == [[0] + [1] * 8, [0] * 2 + [1] * 7]
    assert left["token_type_ids"].tolist() == [[0] * 7 + [1] * 2, [0] * 5 + [1] * 4]
    bare = Tokenizer.load(folder)(texts, padding_side="left", add_special_tokens=False)
    assert bare["input_ids"].tolist() == [[8, 9, 3, 5], [11, 11, 11, 7]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [3, 4, 5, 6, 7, 8, 11, 40])
def test_truncation_is_the_librarys(tmp_path: Path, side: str, limit: int) -> None:
    """Cover single texts and pairs, either of which may be longer, in batches where only some rows are too long."""
    tokenizer = Tokenizer.load(bert_folder(tmp_path, truncation_side=side))
    reference = Tokenizer.load(tmp_path).backend
    rows = [" ".join(GOOGLE[3:11:2] * n + ["un"] * m) for n, m in [(0, 1), (0, 2), (1, 1), (2, 0), (1, 9)]]
    reference.enable_padding(pad_id=11, pad_token="[PAD]")
    for texts, pairs in [(rows, None), (rows, rows[::-1]), (rows, rows), (rows[::-1], [rows[2]] * 5)]:
        for strategy in ("longest_first", "only_first", "only_second"):
            if strategy != "longest_first" and (pairs is None or limit != 40):
                continue  # these two strategies cannot always keep the limit
            reference.enable_truncation(limit, direction=side, strategy=strategy)
            expected = reference.encode_batch(texts if pairs is None else list(zip(texts, pairs, strict=True)))
            actual = tokenizer(texts, pairs, max_length=limit, truncation=strategy)
            assert actual["input_ids"].tolist() == [row.ids for row in expected]
            assert actual["token_type_ids"].tolist() == [row.type_ids for row in expected]
            assert actual["attention_mask"].tolist() == [row.attention_mask for row in expected]


def test_truncation_of_one_of_a_pair(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert_folder(tmp_path))
    first = tokenizer("running wanted un", "un , wa", max_length=8, truncation="only_first")
    assert first["input_ids"].tolist() == [[1, 8, 9, 2, 7, 10, 6, 2]]
    second = tokenizer("un , wa", "running wanted un", max_length=8, truncation="only_second")
    assert second["input_ids"].tolist() == [[1, 7, 10, 6, 2, 8, 9, 2]]
    assert second["token_type_ids"].tolist() == [[0] * 5 + [1] * 3]


def test_words_that_were_split_before(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert_folder(tmp_path))
    inputs = tokenizer([["running", "un,", "wanted"], ["wa"]], is_split_into_words=True, return_word_ids=True)
    assert inputs["input_ids"].tolist() == [[1, 8, 9, 7, 10, 3, 5, 2], [1, 6, 2, 11, 11, 11, 11, 11]]
    assert inputs["word_ids"].tolist() == [[-1, 0, 0, 1, 1, 2, 2, -1], [-1, 0, -1, -1, -1, -1, -1, -1]]
    one = tokenizer(["running", "un,", "wanted"], is_split_into_words=True, return_word_ids=True, max_length=5)
    assert one["word_ids"].tolist() == [[-1, 0, 0, 1, -1]]


def test_segments_belong_to_bert(tmp_path: Path) -> None:
    assert "token_type_ids" in Tokenizer.load(bert_folder(tmp_path, tokenizer_class="BertTokenizerFast"))("un")
    assert "token_type_ids" not in Tokenizer.load(bert_folder(tmp_path, tokenizer_class="DistilBertTokenizer"))("un")
    Tokenizer.load(bert_folder(tmp_path)).save(tmp_path / "saved")
    for kind in ("TokenizersBackend", "PreTrainedTokenizerFast"):  # any vocabulary; as in transformers 5
        (tmp_path / "saved" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
        assert "token_type_ids" not in Tokenizer.load(tmp_path / "saved")("un")
    names = ["input_ids", "attention_mask"]
    assert list(Tokenizer.load(bert_folder(tmp_path, model_input_names=names))("un")) == names


# Byte-pair encoding of bytes, in plain Python


@functools.cache
def letters() -> dict[int, str]:
    """Return GPT-2's ``bytes_to_unicode``, a printable character for every byte."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair and not result[-1].endswith("\0"):
            result[-1] += part + "\0"  # just merged: not the left half of another pair in this pass
        else:
            result.append(part)
    return [part.replace("\0", "") for part in result]


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # encoder.py of openai/gpt-2
CL100K = (  # tiktoken's; Llama 3 uses it unchanged, Qwen2 with single digits
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def pieces(text: str, pre: str) -> list[str]:
    regex = pytest.importorskip("regex")
    if pre == "smollm":
        return [p for part in regex.split(r"(\p{N})", text) for p in regex.findall(GPT2, part)]
    pattern = {"gpt-2": GPT2, "llama-bpe": CL100K, "qwen2": CL100K.replace("{1,3}", "")}[pre]
    return regex.findall(pattern, text)


def spelled(piece: str) -> list[str]:
    return [letters()[byte] for byte in piece.encode()]


@functools.cache
def learned(pre: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return tokens and merges, learned from the most frequent pairs of the texts."""
    words = [spelled(piece) for text in TEXTS * 2 for piece in pieces(text, pre)]
    # Some pre-tokenizers split these digits, and the test must detect the difference.
    words += [spelled(piece) for piece in ("12", "123", " 12", " days", "'LL", "it's")] * 9
    merges: list[tuple[str, str]] = []
    for _ in range(150):
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = [merged(word, best) for word in words]
    tokens = [*letters().values(), *("".join(pair) for pair in merges)]
    return tuple(dict.fromkeys(tokens)), tuple(dict.fromkeys(merges))


def byte_pairs(text: str, pre: str) -> list[int]:
    """Encode a text by the algorithm of Sennrich et al. (2016): apply the earliest merge until none is left."""
    tokens, merges = learned(pre)
    ids = []
    for piece in pieces(text, pre):
        parts = spelled(piece)
        if pre == "llama-bpe" and "".join(parts) in tokens:
            parts = ["".join(parts)]  # Llama 3 uses a whole token directly
        while found := set(pairwise(parts)) & set(merges):
            parts = merged(parts, min(found, key=merges.index))
        ids += [tokens.index(part) for part in parts]
    return ids


def gguf(pre: str, **more: Any) -> dict[str, Any]:
    tokens, merges = learned(pre)
    special = ["<|im_start|>", "<|im_end|>", "<think>"]
    return {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *special],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3, 3, 4],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
        "tokenizer.ggml.padding_token_id": len(tokens) + 1,
        "tokenizer.ggml.add_bos_token": False,
        **{f"tokenizer.{key}": value for key, value in more.items()},
    }


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_gguf_byte_pairs(pre: str) -> None:
    tokenizer = Tokenizer.from_gguf(gguf(pre))
    for text in TEXTS:
        assert tokenizer.encode(text).ids == byte_pairs(text, pre), text
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    start = len(learned(pre)[0])
    text = "<|im_start|>don't<think> 12<|im_end|>"
    inner = [*byte_pairs("don't", pre), start + 2, *byte_pairs(" 12", pre)]
    assert tokenizer.encode(text).ids == [start, *inner, start + 1]
    assert tokenizer.decode(tokenizer.encode(text).ids) == "don't<think> 12"
    assert (tokenizer.bos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        "<|im_start|>",
        start + 1,
        start + 1,
    )
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.vocab_size) == (64, "left", start + 3)
    rows = [byte_pairs("days", pre), byte_pairs("don't", pre)]
    width = max(map(len, rows))
    inputs = tokenizer(["days", "don't"])
    assert inputs["input_ids"].tolist() == [[start + 1] * (width - len(row)) + row for row in rows]
    assert list(inputs) == ["input_ids", "attention_mask"]
    framed = Tokenizer.from_gguf(gguf(pre, **{"ggml.add_bos_token": True, "ggml.add_eos_token": True}))
    assert framed.encode("days").ids == [start, *rows[0], start + 1]
    two = [0] * (len(rows[0]) + 2) + [1] * (len(rows[1]) + 2)
    assert framed.encode("days", "don't").type_ids == two
    assert framed("days", "don't")["input_ids"].tolist() == [[start, *rows[0], start + 1, start, *rows[1], start + 1]]


def test_pre_tokenizers_differ_here() -> None:
    """The preceding test is meaningful only if the pre-tokenizers split these texts differently."""
    cut = {pre: tuple(piece for text in TEXTS for piece in pieces(text, pre)) for pre in ("gpt-2", "smollm", "qwen2")}
    assert len({*cut.values(), tuple(piece for text in TEXTS for piece in pieces(text, "llama-bpe"))}) == 4


def test_llama_3_begins_with_bos_unless_told() -> None:
    fields = gguf("llama-bpe")
    del fields["tokenizer.ggml.add_bos_token"]
    tokenizer = Tokenizer.from_gguf(fields)
    assert tokenizer.encode("days").ids == [tokenizer.bos_token_id, *byte_pairs("days", "llama-bpe")]


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_llama_3_takes_whole_tokens_as_they_are(pre: str) -> None:
    """Only Llama 3 (``ignore_merges`` in its tokenizer.json) finds a token that no merges produce."""
    fields = gguf(pre)
    fields["tokenizer.ggml.tokens"].append("xyzzy")
    fields["tokenizer.ggml.token_type"].append(1)
    whole = [len(fields["tokenizer.ggml.tokens"]) - 1]
    expected = whole if pre == "llama-bpe" else byte_pairs("xyzzy", pre)
    assert Tokenizer.from_gguf(fields).encode("xyzzy").ids == expected


def test_qwen2_composes_letters() -> None:
    tokenizer = Tokenizer.from_gguf(gguf("qwen2"))
    assert tokenizer.encode("cafe\u0301").ids == byte_pairs("caf\u00e9", "qwen2")


def gpt2_folder(folder: Path, *special: str, **config: Any) -> Path:
    tokens, merges = learned("gpt-2")
    vocabulary = {token: number for number, token in enumerate([*tokens, *special])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_gpt2_of_vocab_and_merges(tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path, "<|endoftext|>", model_max_length=32)
    tokenizer = Tokenizer.load(folder)
    for text in TEXTS:
        assert tokenizer.encode(text).ids == byte_pairs(text, "gpt-2")
    end = len(learned("gpt-2")[0])
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (end, end, None)
    assert tokenizer(["days", "days"])["input_ids"].tolist() == [byte_pairs("days", "gpt-2")] * 2
    with pytest.raises(ValueError, match=r"padding: got 'longest' .*without a pad token.*load\(path, pad_token="):
        tokenizer(["days", "days days days"])
    padded = Tokenizer.load(folder, pad_token="<|endoftext|>")(["days", "days days days"])["input_ids"]
    assert padded[0].tolist()[-1] == end
    with pytest.raises(ValueError, match="pad_token: got '<pad>', which is not in the vocabulary"):
        Tokenizer.load(folder, pad_token="<pad>")
    with pytest.raises(ValueError, match=r"is_split_into_words: .*add_prefix_space=True"):
        tokenizer(["days", "days"], is_split_into_words=True)
    prefixed = Tokenizer.load(folder, add_prefix_space=True)
    words = prefixed(["days", "don't"], is_split_into_words=True)["input_ids"].tolist()
    assert words == [byte_pairs(" days", "gpt-2") + byte_pairs(" don't", "gpt-2")]
    # The option also applies to a tokenizer.json that was saved without it.
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved", add_prefix_space=True)
    assert again(["days", "don't"], is_split_into_words=True)["input_ids"].tolist() == words


def test_roberta_of_vocab_and_merges(tmp_path: Path) -> None:
    folder = gpt2_folder(tmp_path, "<s>", "<pad>", "</s>", "<unk>", "<mask>", tokenizer_class="RobertaTokenizer")
    tokenizer = Tokenizer.load(folder)
    first = len(learned("gpt-2")[0])
    days, text = byte_pairs("days", "gpt-2"), byte_pairs("don't", "gpt-2")
    pair = [first, *days, first + 2, first + 2, *text, first + 2]
    inputs = tokenizer(["days", "days"], ["don't", ""])
    assert inputs["input_ids"][0].tolist() == pair
    end = [first, *days, first + 2, first + 2, first + 2]
    assert inputs["input_ids"][1].tolist() == end + [first + 1] * (len(pair) - len(end))
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert tokenizer.encode("days <mask>").ids == [first, *days, first + 4, first + 2]  # absorbs the space before it


# SentencePiece


def test_gguf_sentencepiece(tmp_path: Path) -> None:
    """Compare Llama's tokenizer with SentencePiece: byte fallback, spaces, and the leading space marker."""
    spm = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["Hello world, hello again", "days and days of the café", "the runs of spaces"] * 20))
    spm.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "llama"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<think>"],
        minloglevel=2,
    )
    model = spm.SentencePieceProcessor(model_file=str(tmp_path / "llama.model"))
    size = model.get_piece_size()
    kinds = [
        2 if model.is_unknown(n) else 3 if model.is_control(n) else 6 if model.is_byte(n) else 1 for n in range(size)
    ]
    kinds[model.piece_to_id("<think>")] = 4
    fields = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(n) for n in range(size)],
        "tokenizer.ggml.scores": [model.get_score(n) for n in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    tokenizer = Tokenizer.from_gguf(fields)
    for text in [*TEXTS, "hello  the cafés of days", " the days"]:
        expected = model.encode(text)
        assert tokenizer.encode(text).ids == [1, *expected], text
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("</s>").ids == [1, 2]
    bare = Tokenizer.from_gguf(
        {**fields, "tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
    )
    assert bare.encode("▁the days").ids == model.encode("the days")
    (tmp_path / "tokenizer.model").write_bytes((tmp_path / "llama.model").read_bytes())
    own = Tokenizer.load(tmp_path)
    for text in [*TEXTS, "hello  the cafés of days", " the days", "a <think>b"]:
        spaced = text.removeprefix(" ")  # as in transformers, without a second space in front
        assert own.encode(text).ids == [1, *(model.encode(spaced) if text != " " else [model.piece_to_id("▁")])], text
    assert own.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "config.json").write_text('{"model_type": "gemma"}')
    with pytest.raises(
        ValueError, match=r"path: .*tokenizer\.model: got a SentencePiece model of type 2.*'gemma'; acc"
    ):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["t5", "marian"])
def test_unigram_models(kind: str, tmp_path: Path) -> None:
    """Compare T5's and Marian's tokenizers with SentencePiece, including its rules of normalization."""
    spm = pytest.importorskip("sentencepiece")
    corpus, ids = tmp_path / "corpus.txt", {"t5": (0, 1, 2), "marian": (-1, 0, 1)}[kind]
    corpus.write_text("\n".join(["Hello world, hello again", "days and days of the café", "the runs of spaces"] * 20))
    spm.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "model"),
        vocab_size=60,
        hard_vocab_limit=False,
        bos_id=-1,
        minloglevel=2,
        **dict(zip(("pad_id", "eos_id", "unk_id"), ids, strict=True)),
    )
    model = spm.SentencePieceProcessor(model_file=str(tmp_path / "model.model"))
    name = {"t5": "spiece.model", "marian": "source.spm"}[kind]
    content = (tmp_path / "model.model").read_bytes()
    (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    pieces = [model.id_to_piece(n) for n in range(model.get_piece_size())]
    if kind == "marian":  # ids of its own, and pieces of another language
        pieces = ["</s>", "<unk>", "fremd", *pieces[:1:-1], "<pad>"]
        (tmp_path / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(pieces)}))
    tokenizer = Tokenizer.load(tmp_path)
    for text in [*TEXTS, "hello  the cafés of days", " the days ", "ｈｅｌｌｏ ﬁ"]:
        expected = [pieces.index(piece) if piece in pieces else ids[2] for piece in model.encode(text, out_type=str)]
        assert tokenizer.encode(text).ids == [*expected, ids[1]], text
    assert tokenizer.decode(tokenizer.encode("hello  the days").ids) == "hello the days"
    if kind == "t5":
        assert tokenizer.encode("<extra_id_0>").ids == [len(pieces) + 99, 1]
    for length in range(0, len(content), 997):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"path: .*{name}"):
            Tokenizer.load(tmp_path)


# Files of Hugging Face folders


def test_options_of_bert_are_those_of_the_config(tmp_path: Path) -> None:
    """As in transformers, rather than those of tokenizer.json; the defaults apply where the config has none."""
    Tokenizer.load(bert_folder(tmp_path, do_lower_case=True)).save(tmp_path)
    ids = {True: [1, 7, 4, 5, 2], False: [1, 0, 2]}
    for config, lower in (
        ({"tokenizer_class": "BertTokenizer", "do_lower_case": False}, False),
        ({"tokenizer_class": "BertTokenizerFast"}, True),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, True),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert Tokenizer.load(tmp_path).encode("UNwanted").ids == ids[lower], config


def test_chat_templates_in_files_of_their_own(tmp_path: Path) -> None:
    """They replace those of tokenizer_config.json, and are saved in it; older files do not come back."""
    Tokenizer.load(bert_folder(tmp_path), chat_template="old").save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("usual")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.chat_templates == {"default": "usual", "tool_use": "with tools"}
    for again in (Tokenizer.load(tokenizer.save(tmp_path)), Tokenizer.from_files(tokenizer.to_files())):
        assert again.chat_templates == tokenizer.chat_templates
    single = Tokenizer.load(tmp_path, chat_template="single")
    assert Tokenizer.load(single.save(tmp_path)).chat_templates == {"default": "single"}


def test_further_special_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert_folder(tmp_path, additional_special_tokens=["running", "<x>"]))
    assert tokenizer.encode("want<x>").ids == [1, 3, 14, 2] and tokenizer.vocab_size == 15
    assert tokenizer.decode([3, 13, 14]) == "want"
    (tmp_path / "tokenizer_config.json").write_text('{"additional_special_tokens": "running"}')
    with pytest.raises(ValueError, match="additional_special_tokens: got 'running'; accepted: a list of tokens"):
        Tokenizer.load(tmp_path)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    files = Tokenizer.load(bert_folder(tmp_path)).to_files()
    with pytest.raises(ValueError, match=r"config: got \['padding'\]; accepted: \['bos_token', "):
        Tokenizer.from_files(files, padding="left")
    with pytest.raises(ValueError, match=r"files: got \['a\.json'\]; accepted: tokenizer\.json"):
        Tokenizer.from_files({"a.json": "{}"})


def test_prompts_and_lower_case_are_saved(tmp_path: Path) -> None:
    options: dict[str, Any] = {"prompts": {"q": "want "}, "default_prompt_name": "q", "include_prompt": False}
    tokenizer = Tokenizer.load(bert_folder(tmp_path, do_lower_case=False), lowercase=True, **options)
    for again in (
        tokenizer,
        Tokenizer.load(tokenizer.save(tmp_path / "a")),
        Tokenizer.from_files(tokenizer.to_files()),
    ):
        given = again("UNwanted")
        assert given["input_ids"].tolist() == [[1, 3, 7, 4, 5, 2]]
        assert given["pooling_mask"].tolist() == [[0, 0, 1, 1, 1, 1]]
    with pytest.raises(ValueError, match=r"default_prompt_name: got 'p'; accepted: \['q'\], or None"):
        Tokenizer.load(tmp_path, prompts={"q": ""}, default_prompt_name="p")


# KerasHub


def test_from_keras_hub_bert() -> None:
    keras_hub = pytest.importorskip("keras_hub")
    theirs = keras_hub.models.BertTokenizer(vocabulary=GOOGLE, lowercase=True)
    ours = Tokenizer.from_keras_hub(theirs)
    for text in ("UNwanted,running", "want wa zebra", "running", "un , un"):
        expected = [int(number) for number in np.asarray(theirs(text))]
        assert ours.encode(text).ids == [1, *expected, 2]
    assert (ours.pad_token_id, ours.unk_token_id, ours.mask_token_id) == (11, 0, 12)
    assert "token_type_ids" in ours("un")


def test_from_keras_hub_byte_pairs() -> None:
    keras_hub = pytest.importorskip("keras_hub")
    tokens, merges = learned("gpt-2")
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|endoftext|>"])}
    theirs = keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=[" ".join(pair) for pair in merges])
    ours = Tokenizer.from_keras_hub(theirs, pad_token="<|endoftext|>")
    for text in ("Hello world, hello again", "days and days", "<|endoftext|>"):
        assert ours.encode(text).ids == [int(number) for number in np.asarray(theirs(text))]
    for text in TEXTS:
        assert ours.encode(text).ids == byte_pairs(text, "gpt-2")
    assert ours.eos_token_id == ours.pad_token_id == len(tokens)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    tokens, merges = learned("llama-bpe")
    vocabulary = {token: number for number, token in enumerate([*tokens, *names])}
    theirs = keras_hub.models.Llama3Tokenizer(vocabulary=vocabulary, merges=[" ".join(pair) for pair in merges])
    ours = Tokenizer.from_keras_hub(theirs)
    for text in ("Hello world", "days<|eot_id|>days"):
        assert ours.encode(text).ids == [len(tokens), *(int(number) for number in np.asarray(theirs(text)))]
    for text in TEXTS:
        assert ours.encode(text).ids == [len(tokens), *byte_pairs(text, "llama-bpe")]
    with pytest.raises(ValueError, match=r"tokenizer: got object.*accepted"):
        Tokenizer.from_keras_hub(object())


# Chat templates

CHATML = (
    "{% for message in messages %}\n{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}\n"
    "{% endfor %}\n{% if add_generation_prompt %}\n{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [{"role": "user", "content": "don't <b>'12'</b>"}, {"role": "assistant", "content": "days"}]


def chatting(template: Any, **config: Any) -> Tokenizer:
    return Tokenizer.from_gguf(gguf("gpt-2"), chat_template=template, **config)


def test_chat_template() -> None:
    tokenizer = Tokenizer.from_gguf(gguf("gpt-2", **{"chat_template": CHATML, "ggml.add_bos_token": True}))
    closed = "<|im_start|>user\ndon't <b>'12'</b><|im_end|>\n<|im_start|>assistant\ndays<|im_end|>\n"
    assert tokenizer.apply_chat_template(TALK) == closed
    assert tokenizer.apply_chat_template(TALK, add_generation_prompt=True) == closed + "<|im_start|>assistant\n"
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    newline = byte_pairs("\n", "gpt-2")
    expected = [start, *byte_pairs("user\ndon't <b>'12'</b>", "gpt-2"), end, *newline]
    expected += [start, *byte_pairs("assistant\ndays", "gpt-2"), end, *newline]
    assert tokenizer.apply_chat_template(TALK, add_generation_prompt=False, tokenize=True) == expected


def test_gguf_with_several_chat_templates() -> None:
    """The list of template names, ``chat_templates``, is not mistaken for a template."""
    several = {"chat_template": "usual", "chat_template.tool_use": "with tools", "chat_templates": ["tool_use"]}
    tokenizer = Tokenizer.from_gguf(gguf("gpt-2", **several))
    assert tokenizer.chat_templates == {"default": "usual", "tool_use": "with tools"}


def test_what_templates_may_use() -> None:
    template = (
        "{%- for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{ bos_token }}{{ m | tojson }}{% endfor %}{% generation %}{{ flavour }}{% endgeneration %}"
        "{{ tools | tojson(indent=1) }}{{ strftime_now('%Y') | length }}"
        "{{ m is defined }}{{ pad_token is defined }}{{ mask_token is defined }}"
    )
    text = chatting(template).apply_chat_template(TALK, tools=[{"name": "é<"}], flavour="plum")
    first = json.dumps(TALK[0])
    assert text == f'<|im_start|>{first}plum[\n {{\n  "name": "é<"\n }}\n]4FalseTrueFalse'
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    assert chatting(named).apply_chat_template(TALK) == "plain"
    assert chatting(named).apply_chat_template(TALK, tools=[{"name": "f"}]) == "with tools"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ ''['__class__'] | attr('x') ~ (''|attr('__class__')) }}",
        "{% for n in range(10 ** 9) %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ missing.field }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_templates_that_fail_or_are_not_safe(template: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)^chat_template: got .*accepted"):
        chatting(template).apply_chat_template(TALK)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hi",
        [{"role": "user"}],
        [{"content": "hi"}],
        ["hi"],
        [{"role": "user", "content": object()}],
        {"role": "user"},
    ],
)
def test_messages_that_are_not_accepted(messages: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)^messages: got .*accepted"):
        chatting(CHATML).apply_chat_template(messages)


def test_without_a_template() -> None:
    with pytest.raises(ValueError, match=r"chat_template: got .*accepted"):
        chatting(None).apply_chat_template(TALK)


# Files


@pytest.mark.parametrize(
    "template", [None, CHATML, [{"name": "default", "template": "a"}, {"name": "b", "template": "c"}]]
)
def test_saved_and_loaded(tmp_path: Path, template: Any) -> None:
    (tmp_path / "bert").mkdir()
    made = [
        Tokenizer.load(
            bert_folder(tmp_path / "bert", model_max_length=9), truncation_side="left", chat_template=template
        ),
        chatting(template, padding_side="right"),
    ]
    for number, tokenizer in enumerate(made):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "chat_template.jinja").write_text("another tokenizer's")
        for again in (Tokenizer.load(tokenizer.save(folder)), Tokenizer.load(folder / "tokenizer.json")):
            state, other = vars(tokenizer).copy(), vars(again).copy()
            assert state.pop("backend").to_str() == other.pop("backend").to_str()
            assert state == other
            inputs, same = tokenizer(TEXTS, TEXTS[::-1]), again(TEXTS, TEXTS[::-1])
            assert {k: v.tolist() for k, v in inputs.items()} == {k: v.tolist() for k, v in same.items()}
        config = json.loads((folder / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert json.loads((folder / "special_tokens_map.json").read_text()) == tokenizer.special_tokens
    assert made[0]("un " * 20)["input_ids"].shape == (1, 9)


def test_what_stands_beside_tokenizer_json(tmp_path: Path) -> None:
    """Settings in tokenizer.json are only defaults, a template file takes precedence, and tokens may be objects."""
    backend = Tokenizer.load(bert_folder(tmp_path)).backend
    backend.enable_truncation(4)
    backend.enable_padding(length=6, pad_id=11, pad_token="[PAD]", direction="left")
    (tmp_path / "own").mkdir()
    backend.save(str(tmp_path / "own" / "tokenizer.json"))
    bare = Tokenizer.load(tmp_path / "own" / "tokenizer.json")
    assert bare("running un")["input_ids"].tolist() == [[1, 8, 9, 2]]
    assert bare(["un", "running"])["input_ids"].tolist() == [[11, 1, 7, 2], [1, 8, 9, 2]]
    assert bare.encode("un " * 9).ids == [1, *[7] * 9, 2]
    config = {"pad_token": {"content": "[MASK]", "lstrip": False}, "model_max_length": 5, "padding_side": "right"}
    (tmp_path / "own" / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "config"}))
    (tmp_path / "own" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[UNK]", "cls_token": "[CLS]"}))
    (tmp_path / "own" / "chat_template.jinja").write_text("file")
    full = Tokenizer.load(tmp_path / "own")
    assert (full.pad_token_id, full.cls_token_id, full.sep_token_id) == (12, 1, None)
    assert full(["un", "running un un"])["input_ids"].tolist() == [[1, 7, 2, 12, 12], [1, 8, 9, 7, 2]]
    assert full.apply_chat_template(TALK) == "file"
    framed = Tokenizer.load(tmp_path / "own", add_bos_token=True, bos_token="wa", eos_token="want")
    assert framed.encode("un").ids == [6, 7]
    (tmp_path / "own" / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"13": {"content": "<new>", "special": True}}, "eos_token": "<new>"})
    )
    added = Tokenizer.load(tmp_path / "own")
    assert (added.eos_token_id, added.vocab_size) == (13, 14)
    assert added.encode("un<new>", add_special_tokens=False).ids == [7, 13]


def broken(folder: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_bytes(text.encode("latin-1"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "\xff"),
        ("tokenizer.json", []),
        ("tokenizer.json", {"version": "1.0"}),
        ("tokenizer.json", {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}),
        ("tokenizer.json", {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}),
        ("tokenizer.json", {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}),
        ("tokenizer.json", {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 2**31}, "merges": []}}),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", []),
        ("tokenizer_config.json", {"pad_token": 3}),
        ("tokenizer_config.json", {"pad_token": {"text": "[PAD]"}}),
        ("tokenizer_config.json", {"pad_token": "<nowhere>"}),
        ("tokenizer_config.json", {"cls_token": "<nowhere>"}),
        ("tokenizer_config.json", {"model_max_length": "long"}),
        ("tokenizer_config.json", {"model_max_length": 0}),
        ("tokenizer_config.json", {"padding_side": "middle"}),
        ("tokenizer_config.json", {"truncation_side": 1}),
        ("tokenizer_config.json", {"chat_template": 5}),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}),
        ("tokenizer_config.json", {"model_input_names": "ids"}),
        ("tokenizer_config.json", {"add_bos_token": True}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"400": {"content": "<x>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<x>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": []}),
        ("tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"13": None}}),
        ("tokenizer_config.json", {"model_max_length": float("nan")}),
        ("tokenizer_config.json", {"strip_accents": "yes"}),
        ("tokenizer_config.json", {"strip_accents": 1}),
        ("added_tokens.json", {"<x>": []}),
        ("special_tokens_map.json", "3"),
        ("chat_template.jinja", "\xff"),
        ("vocab.txt", "un\nwant\n"),
        ("vocab.txt", "\xff"),
    ],
)
def test_files_that_are_not_accepted(tmp_path: Path, name: str, content: Any) -> None:
    bert_folder(tmp_path)
    broken(tmp_path, name, content)
    with pytest.raises(ValueError, match=r"(?s): got .*accepted|: .* (is not JSON|cannot be read|holds a).*accepted"):
        Tokenizer.load(tmp_path)


def test_a_frame_of_ids_that_are_nowhere(tmp_path: Path) -> None:
    raw = json.loads(Tokenizer.load(bert_folder(tmp_path)).backend.to_str())
    raw["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [99]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"post_processor: got ids \[99\]; accepted"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ggml.model": "plamo2"}, "model"),
        ({"ggml.model": "t5"}, "scores"),
        ({"ggml.pre": "unheard-of"}, "pre: got 'unheard-of'; "),
        ({"ggml.tokens": None}, "tokens"),
        ({"ggml.tokens": ["a", "a"]}, "tokens"),
        ({"ggml.token_type": [1]}, "token_type"),
        ({"ggml.merges": [1]}, "merges"),
        ({"ggml.merges": ["no such"]}, "vocabulary and merges"),
        ({"ggml.bos_token_id": 10**6}, "bos_token_id"),
        ({"ggml.eos_token_id": "2"}, "eos_token_id"),
        ({"ggml.model": "llama"}, "scores"),
    ],
)
def test_gguf_fields_that_are_not_accepted(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){named}.*accepted"):
        Tokenizer.from_gguf(gguf("gpt-2", **changed))


@pytest.mark.parametrize(
    ("texts", "options", "named"),
    [
        (3, {}, "texts"),
        ([], {}, "texts"),
        (["a", 3], {}, "texts"),
        ([b"a"], {}, "texts"),
        ("a", {"is_split_into_words": True}, "texts"),
        (["a"], {"pairs": ["b", "c"]}, "pairs"),
        ("un", {"max_length": 0}, "max_length"),
        ("un", {"max_length": 1}, "max_length"),
        ("un", {"max_length": 2.0}, "max_length"),
        ("un", {"padding": "max_length"}, "max_length"),
        ("un un un", {"padding": "max_length", "max_length": 4, "truncation": False}, "truncation"),
        (["un", "un un"], {"padding": False}, "padding"),
        ("un", {"padding": "longest_first"}, "padding"),
        ("un", {"padding_side": "top"}, "padding_side"),
        ("un", {"truncation": "middle"}, "truncation"),
        ("un un", {"max_length": 3, "truncation": "only_second"}, "truncation"),
        ("un", {"pairs": "un un un", "max_length": 5, "truncation": "only_first"}, "truncation"),
    ],
)
def test_calls_that_are_not_accepted(tmp_path: Path, texts: Any, options: dict[str, Any], named: str) -> None:
    tokenizer = Tokenizer.load(bert_folder(tmp_path))
    with pytest.raises(ValueError, match=rf"(?s)^{named}: got .*accepted"):
        tokenizer(texts, **options)


def test_ids_that_are_not_accepted(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert_folder(tmp_path))
    for ids in ([-1], [[1, 2]], [1.5], "7", [2**40], [[1], [2, 3]]):
        with pytest.raises(ValueError, match=r"^ids: got .*accepted"):
            tokenizer.decode(ids)
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([7, 500]) == "un"
    with pytest.raises(ValueError, match=r"^text: got int; accepted"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"config: got \['pad'\]; accepted"):
        Tokenizer.load(tmp_path, pad="[PAD]")
    with pytest.raises(ValueError, match=r"path: got .*accepted"):
        Tokenizer.load(tmp_path / "nowhere")


def test_importing_is_cheap() -> None:
    """The command line imports this module before it knows which command is requested."""
    code = (
        "import attention_zoo.text.tokenizer, sys\n"
        "print(sorted({'keras', 'tensorflow', 'tokenizers', 'jinja2'} & set(sys.modules)))"
    )
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja", "vocab.txt"])
def test_files_that_are_too_large(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The size is checked before the file is read."""
    from attention_zoo.text import tokenizer_files, vocabularies

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("hello")
    Tokenizer.load(tmp_path)
    limits = {"vocab.txt": (vocabularies, "LARGEST"), "tokenizer_config.json": (tokenizer_files, "LARGEST_JSON")}
    limits["chat_template.jinja"] = (tokenizer_files, "LARGEST_JSON")
    size = (tmp_path / name).stat().st_size
    monkeypatch.setattr(*limits[name], size - 1)
    if name == "chat_template.jinja":
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=rf"path: .*{name} has {size} bytes; accepted: .* of at most {size - 1}"):
        Tokenizer.load(tmp_path)


def test_tokens_of_added_tokens_json_are_text(tmp_path: Path) -> None:
    """As in transformers, ``decode`` leaves out only those that the config names as special."""
    folder = gpt2_folder(tmp_path, "<|endoftext|>")
    size = Tokenizer.load(folder).vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"<tool>": size, "<|im_end|>": size + 1}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["additional_special_tokens"] = ["<|im_end|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.decode([size, size + 1]) == "<tool>"
    assert tokenizer.decode([size, size + 1], skip_special_tokens=False) == "<tool><|im_end|>"


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "config.json", "added_tokens.json"])
def test_each_kind_of_file_has_its_limit(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Vocabularies may be larger than configs, and the error names the rejected file once, by its path."""
    from attention_zoo.text import tokenizer_files, vocabularies

    folder = gpt2_folder(tmp_path, "<|endoftext|>")
    small = {"config.json": '{"model_type": "gpt2"}', "added_tokens.json": "{}"}
    if name in small:
        (folder / name).write_text(small[name])
    if name == "tokenizer.json":
        Tokenizer.load(folder).backend.save(str(folder / name))
    limits = {"tokenizer.json": (tokenizer_files, "LARGEST"), "vocab.json": (vocabularies, "LARGEST")}
    limits["merges.txt"] = limits["vocab.json"]
    size = (folder / name).stat().st_size
    if name == "merges.txt":
        (folder / "vocab.json").write_text("{}")  # read first, and now below the limit
    monkeypatch.setattr(*limits.get(name, (vocabularies, "LARGEST_JSON")), size - 1)
    with pytest.raises(
        ValueError, match=rf"^path: [^:]*{name} has {size} bytes; accepted: [^;]* of at most {size - 1}$"
    ):
        Tokenizer.load(folder)


def test_a_file_that_is_not_utf8_is_named_once(tmp_path: Path) -> None:
    bert_folder(tmp_path)
    broken(tmp_path, "tokenizer.json", "\xff")
    with pytest.raises(ValueError, match=r"^path: \S*tokenizer\.json cannot be read: [^;]*; accepted: a UTF-8 file$"):
        Tokenizer.load(tmp_path)


def test_a_generation_prompt_asked_for_by_numpy(tmp_path: Path) -> None:
    """Templates receive plain Python values, and a NumPy boolean, as returned by comparisons, is not one."""
    tokenizer = Tokenizer.load(bert_folder(tmp_path), chat_template="{{ add_generation_prompt }}")
    for asked in np.array([True, False]):
        assert tokenizer.apply_chat_template(TALK, add_generation_prompt=asked) == str(asked)
