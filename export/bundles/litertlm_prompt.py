"""A chat template as LiteRT-LM has it: what stands before and behind each message of a role.

The engine renders with minijinja, which has no methods of Python's texts, and gives a message's content as a list of
items: templates of Hugging Face fail there. So the texts around the messages are found by rendering the model's own
template, and put together again in one that minijinja takes. (Its other way, ``prompt_templates`` alone, writes the
texts into a template as they are: a newline at their beginning or braces in them would be lost, and there is no place
for what stands once, before the first message.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...text.chat import chat_text
from ...text.tokenizer import Tokenizer

ACCEPTED = (
    "accepted: one that puts the same text around each message of a role, or a tokenizer without a chat template, for "
    "plain prompts"
)
# What the pieces together are compared with the template on, by the roles of the messages: s, u and a.
CONVERSATIONS = ("u", "su", "uau", "suau", "uauau")
ROLES = {"s": "system", "u": "user", "a": "assistant"}
SAID = ("Why is the sky blue?", 'It\'s {light}:\n\n1. "scattered"', "Ünd – <b>50 %</b>?", "No.", "x")


@dataclass(frozen=True)
class Affixes:
    """Texts before and behind a message, which loses the white space around it where it is `trimmed`."""

    prefix: str = ""
    suffix: str = ""
    trimmed: bool = False


@dataclass(frozen=True)
class Prompts:
    """A conversation's texts, without the messages.

    Attributes:
        start: before the first message, where that is not the system's.
        system: None where the template has no place for it.
        user, model: around questions and answers; ``model.prefix`` is also what an answer begins behind.
        end: how much of ``model.suffix`` is the token that ends an answer, which the model says itself.
    """

    start: str = ""
    system: Affixes | None = field(default_factory=Affixes)
    user: Affixes = field(default_factory=Affixes)
    model: Affixes = field(default_factory=Affixes)
    end: int = 0

    def without(self, token: str) -> Prompts | None:
        """The same where `token` already stands before everything; None of prompts that do not begin with it."""
        system = self.system
        if not self.start.startswith(token) or (system and not system.prefix.startswith(token)):
            return None
        shorter = system and Affixes(system.prefix[len(token) :], system.suffix, system.trimmed)
        return Prompts(self.start[len(token) :], shorter, self.user, self.model, self.end)

    def template(self) -> str:
        """For minijinja, and for Jinja.

        The engine feeds what a rendering has more than that of the conversation before. So what follows the end of an
        answer comes only with the next question: it would never be fed.
        """
        text = (
            "{%- if message.content is string -%}{{- message.content@ -}}{%- else -%}"
            "{%- for item in message.content -%}{%- if item.type == 'text' -%}{{- item.text@ -}}{%- endif -%}"
            "{%- endfor -%}{%- endif -%}"
        )

        def around(affixes: Affixes, suffix: str) -> str:
            said = text.replace("@", " | trim" if affixes.trimmed else "")
            return f"{_literal(affixes.prefix)}{said}{suffix}"

        end, rest = self.model.suffix[: self.end], self.model.suffix[self.end :]
        later = f"{{%- if add_generation_prompt or not loop.last -%}}{_literal(rest)}{{%- endif -%}}" if rest else ""
        refused = "{{- raise_exception('the model takes no system message') -}}"
        system = around(self.system, _literal(self.system.suffix)) if self.system else refused
        return (
            "{%- for message in messages -%}"
            f"{{%- if loop.first and message.role != 'system' -%}}{_literal(self.start)}{{%- endif -%}}"
            f"{{%- if message.role == 'system' -%}}{system}"
            f"{{%- elif message.role == 'user' -%}}{around(self.user, _literal(self.user.suffix))}"
            f"{{%- else -%}}{around(self.model, _literal(end) + later)}{{%- endif -%}}"
            "{%- endfor -%}"
            f"{{%- if add_generation_prompt -%}}{_literal(self.model.prefix)}{{%- endif -%}}"
        )


def prompts_of(tokenizer: Tokenizer, ends: Sequence[str]) -> Prompts:
    """The texts of `tokenizer`'s chat template; nothing at all where it has none.

    Args:
        ends: the texts of the tokens that end an answer.

    Raises:
        ValueError: a template that no such texts can express, or that fails.
    """
    if not tokenizer.chat_templates:
        return Prompts()
    users, answer = ("«first»", "«third»"), "«second»"
    start, suffix = _around(tokenizer, "u", users[:1])
    before, between, after, last = _around(tokenizer, "uau", (users[0], answer, users[1]))
    ((_, _, model_suffix),) = [_around(tokenizer, "ua", (users[0], answer))]
    if not between.startswith(suffix) or not after.startswith(model_suffix) or last != suffix:
        raise _refused("has other texts around a question or an answer where another one follows")
    user_prefix, model_prefix = after[len(model_suffix) :], between[len(suffix) :]
    if before != start or not start.endswith(user_prefix):
        raise _refused("has another text before the first question, and not only before it")
    asked = _around(tokenizer, "u", users[:1], answering=True)[-1]
    if asked != suffix + model_prefix:
        raise _refused(f"ends a prompt with {asked[-40:]!r}, and stands otherwise before an answer")
    found = Prompts(
        start[: len(start) - len(user_prefix)],
        _system(tokenizer, user_prefix, suffix),
        Affixes(user_prefix, suffix, _trims(tokenizer, "u")),
        Affixes(model_prefix, model_suffix),
        max((len(end) for end in ends if end and model_suffix.startswith(end)), default=0),
    )
    _check(tokenizer, found)
    return found


def _system(tokenizer: Tokenizer, user_prefix: str, user_suffix: str) -> Affixes | None:
    told, asked = "«told»", "«asked»"
    try:
        before, between, last = _around(tokenizer, "su", (told, asked))
    except ValueError:
        return None
    if not between.endswith(user_prefix) or last != user_suffix:
        raise _refused("has other texts around a question behind a system message")
    return Affixes(before, between[: len(between) - len(user_prefix)], _trims(tokenizer, "su"))


def _trims(tokenizer: Tokenizer, roles: str) -> bool:
    """Does the template take the white space from around the first of these messages?"""
    rest = ["x"] * (len(roles) - 1)
    return _render(tokenizer, roles, ["\n x ", *rest]) == _render(tokenizer, roles, ["x", *rest])


def _check(tokenizer: Tokenizer, prompts: Prompts) -> None:
    """The model's own template and ours write the same, for conversations of several kinds."""
    ours = {"default": prompts.template()}
    for roles in CONVERSATIONS:
        if "s" in roles and prompts.system is None:
            continue
        said = [f" {SAID[0]}\n", *SAID[1 : len(roles)]]
        found = chat_text(ours, _messages(roles, said), tokenizer.special_tokens, {"add_generation_prompt": True})
        if found != _render(tokenizer, roles, said, answering=True):
            names = ", ".join(ROLES[role] for role in roles)
            raise _refused(f"is more than the texts around messages, as {names} show")


def _around(tokenizer: Tokenizer, roles: str, said: Sequence[str], *, answering: bool = False) -> list[str]:
    """What the template writes before, between and behind messages."""
    rest, pieces = _render(tokenizer, roles, said, answering=answering), []
    for text in said:
        if rest.count(text) != 1:
            raise _refused("changes, repeats or leaves out what is said")
        piece, _, rest = rest.partition(text)
        pieces.append(piece)
    return [*pieces, rest]


def _render(tokenizer: Tokenizer, roles: str, said: Sequence[str], *, answering: bool = False) -> str:
    return tokenizer.apply_chat_template(_messages(roles, said), add_generation_prompt=answering)


def _messages(roles: str, said: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ROLES[role], "content": text} for role, text in zip(roles, said, strict=True)]


def _refused(reason: str) -> ValueError:
    return ValueError(f"chat_template: got one that {reason}; {ACCEPTED}")


def _literal(text: str) -> str:
    """An expression that prints `text` as it is: JSON's escapes are also those of Jinja and of minijinja."""
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}" if text else ""
