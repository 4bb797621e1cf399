"""A chat template for LiteRT-LM, made of the texts before and after each message of a role.

The engine renders templates with minijinja, which does not have the methods of Python strings, and passes a message's
content as a list of items. Hugging Face's templates fail there. So the texts around the messages are found by rendering
the model's own template, and written to a new template that minijinja accepts. (The other way, ``prompt_templates``
alone, inserts the texts into a template without escapes: a newline at their beginning and braces in them would be lost,
and no field holds a text that occurs once, before the first message.)
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
# Conversations for the comparison of both templates, by the roles of the messages: s, u and a.
CONVERSATIONS = ("u", "su", "uau", "suau", "uauau")
ROLES = {"s": "system", "u": "user", "a": "assistant"}
SAID = ("Why is the sky blue?", 'It\'s {light}:\n\n1. "scattered"', "Ünd – <b>50 %</b>?", "No.", "x")


@dataclass(frozen=True)
class Affixes:
    """The texts before and after a message. White space around the message is removed if `trimmed`."""

    prefix: str = ""
    suffix: str = ""
    trimmed: bool = False


@dataclass(frozen=True)
class Prompts:
    """The texts of a conversation around its messages.

    Attributes:
        start: the text before the first message, if that is not the system message.
        system: None if the template does not accept a system message.
        user, model: around questions and answers. A prompt for an answer also ends with ``model.prefix``.
        end: the length of the end token at the beginning of ``model.suffix``, which the model generates itself.
    """

    start: str = ""
    system: Affixes | None = field(default_factory=Affixes)
    user: Affixes = field(default_factory=Affixes)
    model: Affixes = field(default_factory=Affixes)
    end: int = 0

    def without(self, token: str) -> Prompts | None:
        """Return the texts without `token` at their beginning, for an engine that adds it; None if they do not begin
        with it."""
        system = self.system
        if not self.start.startswith(token) or (system and not system.prefix.startswith(token)):
            return None
        shorter = system and Affixes(system.prefix[len(token) :], system.suffix, system.trimmed)
        return Prompts(self.start[len(token) :], shorter, self.user, self.model, self.end)

    def template(self) -> str:
        """Return the template, for minijinja and for Jinja.

        The engine feeds only the text that a rendering adds to that of the conversation before. The text after the end
        token of an answer would therefore never be fed, so it is written only with the next question.
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
    """Return the texts of `tokenizer`'s chat template; empty texts if it has no template.

    Args:
        ends: the texts of the tokens that end an answer.

    Raises:
        ValueError: the template fails, or such texts cannot express it.
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
    """Return whether the template removes the white space around the first of these messages."""
    rest = ["x"] * (len(roles) - 1)
    return _render(tokenizer, roles, ["\n x ", *rest]) == _render(tokenizer, roles, ["x", *rest])


def _check(tokenizer: Tokenizer, prompts: Prompts) -> None:
    """Check that the model's own template and the new one give the same text for several kinds of conversations."""
    ours = prompts.template()
    for roles in CONVERSATIONS:
        if "s" in roles and prompts.system is None:
            continue
        said = [f" {SAID[0]}\n", *SAID[1 : len(roles)]]
        found = chat_text(ours, _messages(roles, said), tokenizer.special_tokens, {"add_generation_prompt": True})
        if found != _render(tokenizer, roles, said, answering=True):
            names = ", ".join(ROLES[role] for role in roles)
            raise _refused(f"is more than the texts around messages, as {names} show")


def _around(tokenizer: Tokenizer, roles: str, said: Sequence[str], *, answering: bool = False) -> list[str]:
    """Return what the template writes before, between and after the messages."""
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
    """Return an expression that prints `text` unchanged. JSON's escapes are valid in Jinja and in minijinja."""
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}" if text else ""
