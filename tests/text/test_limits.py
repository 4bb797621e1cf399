"""Chat templates and tokenizers from strangers: limits of time and memory, and errors of Rust code as ValueError."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from attention_zoo.text.chat import chat_text
from attention_zoo.text.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "hi"}]
DOUBLING = "{% set ns = namespace(x=X) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x OUT }}"


def doubling(start: str, step: str, out: str = "") -> str:
    return DOUBLING.replace("X", start, 1).replace("STEP", step).replace("OUT", out)


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
    "joined texts": doubling("'a'", "ns.x ~ ns.x", "| length"),
    "added texts": doubling("'a'", "ns.x + ns.x", "| length"),
    "lists in lists": doubling("[1]", "[ns.x, ns.x]"),
    "repeated text": "{{ 'a' * 1000000000 }}",
    "repeated list": "{{ [0] * 1000000000 }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "width from a variable": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "power": "{{ 9 ** 100000 }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "replaced": "{% set x = 'a' * 100000 %}{{ x | replace('a', x) | length }}",
    "indent": "{{ ('a\n' * 100000) | indent(100000) }}",
    "output": "{% for i in range(99999) %}" + "a" * 10000 + "{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_without_end(name: str) -> None:
    begun = time.thread_time()
    with pytest.raises(ValueError, match=r"^chat_template: got TooLargeError: .*; accepted: a template that takes"):
        chat_text(ENDLESS[name], MESSAGES, {}, {})
    assert time.thread_time() - begun < 15


def test_usual_templates_are_not_limited() -> None:
    messages = [{"role": "user", "content": "word " * 200}] * 500
    text = chat_text(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ '<' ~ m.role ~ '>' + "
        "m.content | trim + '</s>' }}{% if loop.last %}{{ '%03d' % ns.n + ('{:>4}'.format(1)) }}{% endif %}{% endfor %}"
        "{{ messages[:1] | tojson }}{{ messages | length }}{{ '-' * 3 }}{{ ['a', 'b'] | join(', ') }}",
        messages,
        {},
        {},
    )
    body = "<user>" + ("word " * 200).strip() + "</s>"
    assert text == body * 500 + "500   1" + json.dumps(messages[:1]) + "500---a, b"


PLAIN: dict[str, Any] = {
    **dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")),
    **{"version": "1.0", "added_tokens": []},
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
}
REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
UNKNOWN = {"SpecialToken": {"id": "[X]", "type_id": 0}}
A = {"Sequence": {"id": "A", "type_id": 0}}


def made(**parts: Any) -> Tokenizer:
    return Tokenizer.from_files({"tokenizer.json": json.dumps({**PLAIN, **parts})})


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_steps_that_double(part: str) -> None:
    steps = {"type": "Sequence", f"{part}s": [REPLACE] * 40}
    with pytest.raises(ValueError, match=rf"^{part}: got steps that make texts 1.1e\+12 times as long; accepted: 256"):
        made(**{part: steps})
    assert made(**{part: {"type": "Sequence", f"{part}s": [REPLACE] * 3}}).decode([0])


def test_huge_padding_and_truncation() -> None:
    padding = {"strategy": {"Fixed": 4 * 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    tokenizer = made(padding={**padding, "pad_type_id": 0, "pad_token": "a"})
    assert tokenizer("b")["input_ids"].tolist() == [[1]]
    tokenizer.model_max_length = 10**9
    with pytest.raises(ValueError, match="max_length: got None where model_max_length is 1000000000; accepted: a pos"):
        tokenizer("b", padding="max_length")


def test_panics_are_value_errors() -> None:
    """Both raise PanicException, which is no Exception, in the tokenizers library."""
    template = {"type": "TemplateProcessing", "single": [UNKNOWN, A], "pair": [A, A], "special_tokens": {}}
    with pytest.raises(ValueError, match=r"^tokenizer: got one that fails: .*; accepted: a valid one$"):
        made(post_processor=template)
    tokenizer = made(decoder={"type": "Strip", "content": "a", "start": 0, "stop": 5})
    with pytest.raises(ValueError, match=r"^tokenizer: got one that fails: .*; accepted: a valid one$"):
        tokenizer.decode([0])
