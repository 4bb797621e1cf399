"""Text generation compared with decoding by hand, with a simple decoder and a tokenizer of words or bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fake_decoder import Fake
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from attention_zoo.generation.chat import Conversation
from attention_zoo.generation.search import stream
from attention_zoo.generation.text_generation import TextGenerating, end_tokens
from attention_zoo.text.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<say> {% endif %}"
)
WORDS = ["<end>", "<pad>", "<system>", "<user>", "<assistant>", "<say>", *(f"w{i}" for i in range(20))]


def words(**config: Any) -> Tokenizer:
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend, **{"eos_token": "<end>", "pad_token": "<pad>", "chat_template": TEMPLATE, **config})


def utf8() -> Tokenizer:
    """Return a tokenizer with one token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


class Source(TextGenerating):
    """A generator that continues a prompt with the first of `rows` that begins with the prompt's last tokens."""

    def __init__(self, tokenizer: Any, rows: Sequence[Sequence[int]], max_length: int = 100, **tokens: Any) -> None:
        self.tokenizer, self.max_length, self.tokens = tokenizer, max_length, tokens
        self.rows = [list(row) for row in rows]
        self.made: list[Fake] = []

    def logits(self, row: Sequence[int]) -> np.ndarray:
        for known in self.rows:
            for length in range(len(known) - 1, 0, -1):
                if list(row[-length:]) == known[:length]:
                    return np.eye(256)[known[length]]
        return np.eye(256)[0]

    def decoder(self) -> Fake:
        self.made.append(Fake(self.logits, max_length=self.max_length, **self.tokens))
        return self.made[-1]

    @property
    def stop_tokens(self) -> list[int]:
        return end_tokens(self.tokens.get("eos"), getattr(self.tokenizer, "eos_token_id", None))

    @property
    def _vocab_size(self) -> int:
        return 256


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def test_texts_of_unequal_lengths() -> None:
    """Each row ends at its end token, which only the tokenizer knows, and the shorter prompt is padded on the left."""
    source = Source(words(), [ids("w1 w2 w3 <end>"), ids("w5 w6 w7 w8 w9 <end>")])
    assert source.generate_text("w1") == " w2 w3"
    assert source.generate_text(["w1", "w0 w4 w5"]) == [" w2 w3", " w6 w7 w8 w9"]
    assert source.generate_text(["w0 w4 w5"]) == [" w6 w7 w8 w9"], "a list gives a list"
    one, other = source.continuations(["w1", "w0 w4 w5"], max_new_tokens=3)
    assert (one.ids, one.text, one.finish_reason) == (ids("w2 w3"), " w2 w3", "stop")
    assert (other.ids, other.text, other.finish_reason) == (ids("w6 w7 w8"), " w6 w7 w8", "length")
    assert [row.ids for row in source.continuations([ids("w1"), ids("w4 w5")])] == [ids("w2 w3"), ids("w6 w7 w8 w9")]


def test_conversations() -> None:
    """The chat template formats the messages, and the prompt is not part of the answer."""
    later = ids("<user> w1 <assistant> w2 w3 <user> w4 <say> w9")
    source = Source(words(), [ids("<user> w1 <say> w2 w3 <end>"), later])
    asked = [{"role": "user", "content": "w1"}]
    assert source.generate_text(asked) == "w2 w3"
    assert source.generate_text([asked, asked]) == ["w2 w3", "w2 w3"]
    assert "".join(source.stream_text(asked)) == "w2 w3"
    conversation = Conversation(source, "w11", max_new_tokens=2)
    assert "".join(conversation.ask("w1")) == "w2 w3"
    assert "".join(conversation.ask("w4")).split()[0] == "w9"
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [message["role"] for message in conversation.messages] == roles
    read = ids("<system> w11 <user> w1 <assistant> w2 w3 <user> w4 <say>")
    assert source.made[-1].rows[0][: len(read)] == read
    conversation.clear()
    assert conversation.messages == [{"role": "system", "content": "w11"}]


def test_a_conversation_longer_than_the_model() -> None:
    """The oldest turns are dropped, the system message is kept, and space for the answer remains."""
    source = Source(words(), [ids("<say> w1 w1 w1 <end>")], max_length=24)
    conversation = Conversation(source, "w7", max_new_tokens=5)
    for turn in range(6):
        assert "".join(conversation.ask(f"w{10 + turn}")) == "w1 w1 w1"
    assert len(conversation.messages) == 13 and conversation.forgotten == 6
    read = source.made[-1].rows[0]
    assert read[:2] == ids("<system> w7") and read.count(WORDS.index("<user>")) == 3
    with pytest.raises(ValueError, match="max_new_tokens: got 5 after"):
        conversation.ask("w3 " * 30)
    assert len(conversation.messages) == 13, "what was not answered is no part of it"
    pieces = conversation.ask("w1")
    next(pieces)
    pieces.close()
    assert len(conversation.messages) == 13


@pytest.mark.parametrize("text", ["naïve — 日本語 🎉 ok", "plain", "é"])
def test_streamed_bytes_are_whole_characters(text: str) -> None:
    tokenizer = utf8()
    row = tokenizer.encode("!" + text).ids
    source = Source(tokenizer, [row])
    pieces = list(source.stream_text("!", max_new_tokens=len(row) - 1))
    assert "".join(pieces) == text == source.generate_text("!", max_new_tokens=len(row) - 1)
    assert not any("\ufffd" in piece for piece in pieces) and len(pieces) == len(text)


def test_a_stream_cut_inside_a_character() -> None:
    tokenizer = utf8()
    source = Source(tokenizer, [tokenizer.encode("!a🎉").ids])
    assert "".join(source.stream_text("!", max_new_tokens=3)) == source.generate_text("!", max_new_tokens=3)


def test_stop_strings_do_not_show() -> None:
    """They appear neither in the text nor in a streamed piece, while a partial match remains part of the text."""
    tokenizer = utf8()
    source = Source(tokenizer, [tokenizer.encode("!one\none\n\ntwo").ids])
    options: dict[str, Any] = {"stop_strings": ["\n\n", "three"], "max_new_tokens": 12}
    assert source.generate_text("!", **options) == "one\none"
    pieces = list(source.stream_text("!", **options))
    assert "".join(pieces) == "one\none" and all("\n\n" not in piece for piece in pieces)
    found = source.continuations("!", **options)[0]
    assert (tokenizer.decode(found.ids), found.finish_reason) == ("one\none\n\n", "stop")
    batch = source.continuations(["!", "?"], **options)
    assert batch[0].ids == found.ids, "padding behind it is no part of it"


def test_end_tokens_are_a_union() -> None:
    assert end_tokens(5, None, [2, 5], (7,), np.int64(1)) == [1, 2, 5, 7]
    source = Source(words(), [ids("w1 w2 w3 w4 <end>")], eos=WORDS.index("w4"))
    assert source.generate_text("w1") == " w2 w3"
    assert source.generate_text("w1", stop_tokens=ids("w3")) == " w2"


def test_a_stream_of_tokens() -> None:
    """The tokens of ``generate`` are yielded step by step, and each step is computed only on request."""
    source = Source(words(), [ids("w1 w2 w3 <end>"), ids("w5 w6 w7 w8 w9 <end>")])
    prompt = np.array([ids("w1"), ids("w5")])
    steps = stream(source.decoder(), prompt, max_new_tokens=5, stop_tokens=0)
    assert next(steps).tolist() == ids("w2 w6") and source.made[-1].steps == 0
    rest = np.stack(list(steps), axis=1)
    assert rest.tolist() == [ids("w3 <end> <end> <end>"), ids("w7 w8 w9 <end>")]
    assert list(stream(source.decoder(), prompt, max_new_tokens=0)) == []
    with pytest.raises(ValueError, match="num_beams: got 2 for a stream"):
        stream(source.decoder(), prompt, num_beams=2)


def test_room() -> None:
    """By default, a continuation fills the model's length; a requested length that does not fit is rejected."""
    source = Source(words(), [[6, 7, 6, 7, 6, 7, 6, 7, 6, 7]], max_length=8)
    assert len(source.continuations("w0")[0].ids) == 7
    with pytest.raises(ValueError, match="max_new_tokens: got 9 after 1 tokens; accepted: 8"):
        source.generate_text("w0", max_new_tokens=9)
    with pytest.raises(ValueError, match="prompts: got 8 tokens; accepted: fewer than 8"):
        source.generate_text("w0 " * 8)


def test_refused() -> None:
    source = Source(words(), [[6, 7]])
    for prompts, message in (
        ([], "prompts: got list"),
        ("", "prompts: got nothing in number 0"),
        (["w1", ""], "prompts: got nothing in number 1"),
        (7, "prompts: got int 7"),
        ([["w1"]], "prompts: got list"),
        ([{"content": "w1"}], "messages: got"),
    ):
        with pytest.raises(ValueError, match=message):
            source.generate_text(prompts)
    with pytest.raises(ValueError, match="prompt: got several"):
        source.stream_text(["w1", "w2"])
    with pytest.raises(ValueError, match="chat_template: got"):
        Source(words(chat_template=None), [[6, 7]]).generate_text([{"role": "user", "content": "w1"}])
    with pytest.raises(ValueError, match="without a chat template"):
        Conversation(Source(words(chat_template=None), [[6, 7]]))
    with pytest.raises(ValueError, match="tokenizer: got a model without one"):
        Source(None, [[6, 7]]).generate_text("w1")
    large = words()
    large.vocab_size = 257
    with pytest.raises(ValueError, match="tokenizer: got one of 257 tokens; accepted: one of at most 256"):
        source.generate_text("w1", tokenizer=large)
