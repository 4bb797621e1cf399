"""The text of new tokens behind a prompt, piece by piece, and stop strings in it."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from fake_decoder import Fake
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

from attention_zoo.generation.new_text import NewText
from attention_zoo.generation.search import generate
from attention_zoo.generation.text_generation import TextGenerating
from attention_zoo.text.tokenizer import Tokenizer

WORDS = ["▁Once", "▁upon", "▁a", "▁time", "▁User", ":", "▁", "x", "🎈"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
PIECES = ["<unk>", "<s>", "</s>", "<end>", *BYTES, *WORDS]


def sentencepiece() -> Tokenizer:
    """Return a tokenizer that decodes as Llama's do: spaces in front of words, and bytes for unknown characters."""
    pieces = [(piece, -float(len(piece) < 4)) for piece in PIECES]
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<end>"])
    return Tokenizer(backend, eos_token="</s>")


def ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


def of(text: str) -> list[int]:
    """Return the ids of the UTF-8 bytes of a text."""
    return [PIECES.index(f"<0x{byte:02X}>") for byte in text.encode()]


def written(new: NewText, tokens: list[int]) -> str:
    for token in tokens:
        new.add(token)
    new.finish()
    return new.text


def test_a_continuation_keeps_the_space_in_front_of_its_first_word() -> None:
    tokenizer = sentencepiece()
    prompt, tokens = ids("▁Once", "▁upon"), ids("▁a", "▁time")
    assert tokenizer.decode(tokens) == "a time"
    assert written(NewText(tokenizer, prompt=prompt), tokens) == " a time"
    assert written(NewText(tokenizer), tokens) == "a time"  # a text of its own


def test_characters_of_several_tokens() -> None:
    """The whole text is that of its pieces, although bytes are decoded together with bytes before them."""
    tokenizer = sentencepiece()
    for tokens, expected in (
        (of("😀") + of("😁") + ids("▁a"), "😀😁 a"),
        (of("😀") + of("😁")[:2], "😀\ufffd\ufffd"),
        (of("😀") + of("😁")[:2] + ids("x"), "😀\ufffd\ufffdx"),
        (ids("x") + of("é") + of("é")[:1], "xé\ufffd"),
    ):
        for prompt in ([], ids("▁Once"), of("😀")):
            new, seen = NewText(tokenizer, prompt=prompt), ""
            for token in tokens:
                new.add(token)
                assert new.text.startswith(seen) and "\ufffd" not in new.text[:1]
                seen = new.text
            new.finish()
            assert new.text == expected and new.text.startswith(seen)


def test_any_split_of_a_text() -> None:
    """Pieces of random tokens are those of the whole decoding where all bytes are characters."""
    tokenizer, rng = sentencepiece(), np.random.default_rng(0)
    parts = [ids("▁a"), ids("x"), of("é"), of("😀"), ids("▁"), ids(":", "▁User"), of("\n")]
    for _ in range(50):
        chosen = [parts[number] for number in rng.integers(0, len(parts), 9)]
        tokens = list(itertools.chain(*chosen))
        prompt = ids("▁Once", "▁time")
        expected = tokenizer.decode(prompt + tokens).removeprefix(tokenizer.decode(prompt))
        assert written(NewText(tokenizer, prompt=prompt), tokens) == expected


@pytest.mark.parametrize(
    ("tokens", "string", "expected"),
    [
        (ids("▁a", "<end>", "x"), "<end>", " a"),  # a special token, which is not part of the text
        (ids("▁a", ":", "<end>", "x"), ":<end>", " a"),
        (ids("▁a", "<end>", "x"), "<e", " a"),  # a part of one
        (ids("▁a", "<end>", "x"), "d>x", " a"),
        (ids("▁a", "<end>", "x", ":"), "x:", " a"),
        (ids("▁User", ":", "x"), " User:", ""),  # the first word, with the space in front of it
        ([*ids("x"), *of("😀")], "😀", "x"),
        (ids("▁a", "▁a"), "b", " a a"),
    ],
)
def test_stop_strings(tokens: list[int], string: str, expected: str) -> None:
    tokenizer, prompt = sentencepiece(), ids("▁Once")
    new = NewText(tokenizer, [string], prompt)
    assert written(new, tokens) == expected and new.stopped == (string != "b")
    source = Fake(follow(prompt, [*tokens, *ids("▁time") * 4]))
    found = generate(source, [prompt], max_new_tokens=len(tokens) + 3, stop_strings=[string], tokenizer=tokenizer)
    assert found[0, 1 : 1 + len(tokens)].tolist()[: len(tokens)] == tokens if string == "b" else True
    stopped = np.flatnonzero(found[0, 1:] == ids("▁time")[0])
    assert bool(len(stopped)) == (string == "b")  # otherwise nothing is generated after the string


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    new = NewText(sentencepiece(), ["a:<end>"], ids("▁Once"))
    for token, text, held in zip(ids("▁a", ":", "x"), (" a", " a:", " a:x"), ("a", "a:", ""), strict=True):
        new.add(token)
        assert (new.text, new.held_back()) == (text, held)


def follow(prompt: list[int], tokens: list[int]) -> Any:
    """Return logits by which greedy decoding generates `tokens` after `prompt`."""

    def logits(row: Any) -> np.ndarray:
        return np.eye(len(PIECES))[tokens[len(row) - len(prompt)]]

    return logits


class Source(TextGenerating):
    """A source that continues any prompt with the same tokens."""

    stop_tokens = ids("</s>")
    _vocab_size = None

    def __init__(self, tokens: list[int], template: str | None = None, **options: Any) -> None:
        self.tokenizer, self.tokens = sentencepiece(), tokens
        if template is not None:
            self.tokenizer.chat_templates = {"default": template}
        if options:
            self.tokenizer = Tokenizer(self.tokenizer.backend, **options)

    def decoder(self) -> Any:
        first: list[int] = []

        def logits(row: Any) -> np.ndarray:
            first.append(len(row))
            return np.eye(len(PIECES))[self.tokens[len(row) - first[0]]]

        return Fake(logits, pad=0)


def test_texts_and_answers() -> None:
    """A continuation begins with a space where the text has one; an answer in a conversation does not."""
    source = Source(ids("▁a", "▁time", "</s>"), "{{ messages[0].content }}")
    assert source.generate_text("Once upon") == " a time"
    assert "".join(source.stream_text("Once upon")) == " a time"
    talk = [{"role": "user", "content": "Once upon"}]
    assert source.generate_text(talk) == "a time" == "".join(source.stream_text(talk))
    assert source.continuations([ids("▁Once")])[0].text == " a time"


def test_the_pieces_of_a_stream_are_the_text() -> None:
    for tokens in ([*of("😀"), *of("😁")[:2]], [*of("😀")[:3], *ids("x")], ids("<end>", "▁a", ":", "<end>")):
        source = Source([*tokens, *ids("</s>")])
        for stops in (None, [":<end>"], ["😀"]):
            whole = source.continuations("Once", stop_strings=stops)[0].text
            assert "".join(source.stream_text("Once", stop_strings=stops)) == whole


def test_a_second_start_token() -> None:
    source = Source(ids("▁a", "</s>"), bos_token="<s>", eos_token="</s>", add_bos_token=True)
    with pytest.warns(UserWarning, match=r"prompt: '<s>' begins the text, and the tokenizer adds another"):
        source.generate_text("<s>Once")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source.generate_text("Once") == " a"
