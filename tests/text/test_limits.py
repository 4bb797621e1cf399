"""Chat templates and tokenizers from strangers: limits of time and memory, and errors of Rust code as ValueError."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from attention_zoo.text import template_limits
from attention_zoo.text.chat import chat_text
from attention_zoo.text.tokenizer import Tokenizer
from attention_zoo.text.tokenizer_config import vocabulary_size

MESSAGES = [{"role": "user", "content": "hi"}]
DOUBLING = "{% set ns = namespace(x=X) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x OUT }}"


def doubling(start: str, step: str, out: str = "") -> str:
    return DOUBLING.replace("X", start, 1).replace("STEP", step).replace("OUT", out)


def twice(out: str) -> str:
    """Return a template that has two equal lists, n.x and n.y, of 2**60 parts, and computes `out` of them."""
    doubled = "{% set n.x = (n.x, n.x) %}{% set n.y = (n.y, n.y) %}"
    return f"{{% set n = namespace(x=(1,), y=(1,)) %}}{{% for i in range(60) %}}{doubled}{{% endfor %}}{{{{ {out} }}}}"


def kept(made: str) -> str:
    """Return a template that makes something in every pass of a loop and keeps it."""
    return f"{{% set n = namespace(x=0) %}}{{% for i in range(99999) %}}{{% set n.x = [n.x, {made}] %}}{{% endfor %}}"


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops with a condition": "{% for i in range(9) %}{% for c in 'a' * 99999 if false %}{% endfor %}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
    "joined texts": doubling("'a'", "ns.x ~ ns.x", "| length"),
    "added texts": doubling("'a'", "ns.x + ns.x", "| length"),
    "lists in lists": doubling("[1]", "[ns.x, ns.x]"),
    "lists as JSON": doubling("[1]", "[ns.x, ns.x]", "| tojson"),
    "lists in a test": doubling("[1]", "[ns.x, ns.x]", "is lower"),
    "lists compared": twice("n.x == n.y"),
    "lists in a list": twice("n.x in [n.y]"),
    "lists compared by a test": twice("n.x is eq n.y"),
    "lists compared by a filter": twice("[n.x] | select('eq', n.y) | list"),
    "lists compared by a method": twice("[n.x].index(n.y)"),
    "lists compared by a loop": "{% for i in [1, 2] %}" + twice("loop.changed(n.x, n.y)") + "{% endfor %}",
    "list as a key": twice("{n.x: 1} | length"),
    "list as an index": twice("{}[n.x]"),
    "list as an argument": twice("{}.get(n.x)"),
    "list as a key of dict": twice("dict([(n.x, 1)]) | length"),
    "list in an error": twice("raise_exception(n.x)"),
    "deep list": doubling("(1,)", "(ns.x,)", "== 1").replace("60", "500"),
    "repeated text": "{{ 'a' * 1000000000 }}",
    "repeated list": "{{ [0] * 1000000000 }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "format with many fields": "{{ ('{0}' * 99999).format([0] * 9999) }}",
    "widths": "{{ ('{0:>99999}' * 9999).format(1) | length }}",
    "width from a variable": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "power": "{{ 9 ** 100000 }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "replaced": "{% set x = 'a' * 100000 %}{{ x | replace('a', x) | length }}",
    "indent": "{{ ('a\n' * 100000) | indent(100000) }}",
    "output": "{% for i in range(99999) %}" + "a" * 10000 + "{% endfor %}",
    "slices": "{% set b = 'ab' * 99999 %}" + kept("b[1:]"),
    "lists": kept("range(99999) | list"),
    "objects": kept("{}.fromkeys(range(99999))"),
    "copies": "{% set b = [0] * 9999 %}" + kept("b.copy()"),
    "batches": kept("[1] | batch(99999, 'x') | list"),
    "words": "{{ ('ab' * 30000000).split('b') | length }}",
    "characters": "{{ ('ab' * 30000000) | list | length }}",
    "characters as arguments": "{{ dict(*('ab' * 30000000)) }}",
    "search from the end": "{{ ('a' * 400000).rfind('b' + 'a' * 200000) }}",
    "strip": "{{ ('a' * 400000).strip('b' * 200000 + 'a') }}",
    "links": "{{ ('a.' * 99999) | urlize }}",
    "source": "{{ messages }}" * 100000,
}
LIMITED = r"^chat_template: got TooLargeError: .*; accepted: a template that takes"


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_without_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in {"STEPS": 5000, "CHARACTERS": 2**21}.items():
        monkeypatch.setattr(template_limits, limit, value)
    with pytest.raises(ValueError, match=LIMITED):
        chat_text(ENDLESS[name], MESSAGES, {}, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_time_and_memory_of_templates_without_end(name: str) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.thread_time()
    with pytest.raises(ValueError, match=LIMITED):
        chat_text(ENDLESS[name], MESSAGES, {}, {})
    assert time.thread_time() - begun < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kB


def test_templates_have_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 0.05)
    with pytest.raises(ValueError, match=r"got TooLargeError: more than 0\.05 s; accepted"):
        chat_text(ENDLESS["loops"], MESSAGES, {}, {})


def test_usual_templates_are_not_limited() -> None:
    messages = [{"role": "user", "content": "word " * 200}] * 500
    text = chat_text(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ '<' ~ m.role ~ '>' + "
        "m.content | trim + '</s>' }}{% if loop.last %}{{ '%03d' % ns.n + ('{:>4}'.format(1)) }}{% endif %}{% endfor %}"
        "{{ messages[:1] | tojson }}{{ messages | length }}{{ '-' * 3 }}{{ ['a', 'b'] | join(', ') }}"
        "{{ 'abc'[::-1] }}{{ messages[1:][-1].content[2:4] }}{{ messages[0] in messages }}{{ 'a b'.split(' ')[-1] }}"
        "{{ {'k': 1}['k'] }}{{ {'k': 2}.get('k', '') }}{% for x in 'abc' if x != 'b' %}{{ x }}{% endfor %}"
        "{% macro m(x, y=[1][0]) %}{{ x ~ y }}{% endmacro %}{{ m(*['q']) }}{{ m(**{'x': 'r', 'y': 2}) }}",
        messages,
        {},
        {},
    )
    body = "<user>" + ("word " * 200).strip() + "</s>"
    assert text == body * 500 + "500   1" + json.dumps(messages[:1]) + "500---a, bcbardTrueb12acq1r2"


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


def test_ids_far_above_the_vocabulary() -> None:
    """Tables by id would take gigabytes."""
    with pytest.raises(ValueError, match=r"vocabulary: got ids up to 1073741824 of 2 tokens; accepted: few gaps"):
        vocabulary_size({"a": 0, "b": 2**30})
    assert vocabulary_size({"a": 0, "b": 2**20}) == 2**20 + 1


def test_token_types_above_int32() -> None:
    single, special = (
        [{"SpecialToken": {"id": "a", "type_id": 2**31}}, A],
        {"a": {"id": "a", "ids": [0], "tokens": ["a"]}},
    )
    template = {"type": "TemplateProcessing", "single": single, "pair": [A, A], "special_tokens": special}
    with pytest.raises(ValueError, match=r"post_processor: got token type 2147483648; accepted: 0 to 2147483647"):
        made(post_processor=template)
