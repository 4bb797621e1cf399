"""Chat templates, which format a conversation as the model was trained on it, rendered in Jinja's sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import brief
from ..needs import named_extras
from .template_limits import limited

UNFINISHED = "\ufddeUNFINISHED "  # marks the end of an unfinished message; no text contains its first character


def named_templates(value: Any) -> dict[str, str]:
    """Return the templates of the config key "chat_template" by name; a single one is named "default".

    Raises:
        ValueError: neither None, a string, nor a list of objects with "name" and "template".
    """
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


def check_messages(messages: Any) -> None:
    """Check one conversation.

    Raises:
        ValueError: not a list of messages with a role and a content or tool calls, or an empty list.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(
            f"messages: got {type(messages).__name__}; accepted: a list of {{'role', 'content'}}, not empty"
        )
    for message in messages:
        known = isinstance(message, Mapping) and isinstance(message.get("role"), str)
        if not known or (message.get("content") is None and not message.get("tool_calls")):
            raise ValueError(f"messages: got {message!r}; accepted: a role and a content in each")


def chosen_template(templates: Mapping[str, str], wanted: str | None, *, tools: bool) -> str:
    """Return the template to use.

    Args:
        templates: templates by name.
        wanted: a name or a template; None for "tool_use" if there are `tools` and such a template, or else "default".
        tools: whether the conversation has tools.

    Raises:
        ValueError: no such template.
    """
    if wanted is not None and not isinstance(wanted, str):
        raise ValueError(f"chat_template: got {type(wanted).__name__}; accepted: a name, a template, or None")
    if wanted is not None and wanted not in templates:
        if "{" not in wanted:
            raise ValueError(f"chat_template: got {wanted!r}; accepted: {sorted(templates)}, or a Jinja template")
        return wanted
    name = wanted or ("tool_use" if tools and "tool_use" in templates else "default")
    if name not in templates:
        raise ValueError(f"chat_template: got {sorted(templates)}; accepted: a tokenizer that has one")
    return templates[name]


def chat_text(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str],
    variables: Mapping[str, Any],
    *,
    unfinished: bool = False,
) -> str:
    """Render `messages`, which ``check_messages`` accepts, with a template.

    Args:
        messages, variables: as in ``Tokenizer.apply_chat_template``.
        special_tokens: contents of the special tokens by name.
        unfinished: end behind the content of the last message, so that a model continues it.

    Raises:
        ValueError: variables of another type, a template that fails or that leaves out an unfinished message.
    """
    if unfinished:
        return _up_to_the_last_content(template, messages, special_tokens, variables)
    # As in transformers, entries that are None are left out, because templates test whether a key exists.
    plain = [{key: value for key, value in message.items() if value is not None} for message in messages]
    given = {"messages": plain, "documents": None, **variables}
    return _render(template, {**special_tokens, **{key: _plain(key, value) for key, value in given.items()}})


def _up_to_the_last_content(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str],
    variables: Mapping[str, Any],
) -> str:
    """Render `messages` and cut the text behind the last message's content, as transformers does."""
    *before, last = messages
    content = last.get("content")
    if not isinstance(content, str):
        raise ValueError(f"continue_final_message: got a last message of {content!r:.60}; accepted: one with a text")
    marked = [*before, {**last, "content": content + UNFINISHED}]
    text = chat_text(template, marked, special_tokens, variables)
    place = text.rfind(UNFINISHED.strip())
    if place < 0:
        raise ValueError(
            "continue_final_message: got True for a chat template that leaves out the last message; accepted: False"
        )
    if text.startswith(UNFINISHED, place):
        return text[:place]
    return text[:place].rstrip()  # the template strips contents


def _plain(name: str, value: Any) -> Any:
    """Return a copy of `value` that has only JSON types, since the sandbox does not restrict other objects' methods.

    Raises:
        ValueError: `value` cannot be written as JSON; the message names the variable `name`.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        reason = brief(error)
        raise ValueError(f"{name}: got what is not JSON: {reason}; accepted: texts, numbers, lists, objects") from error


def _render(template: str, variables: Mapping[str, Any]) -> str:
    """Render an untrusted template in the same environment as transformers (its ``utils/chat_template_utils.py``).

    Raises:
        ValueError: the template is invalid, unsafe or fails, or does more than ``template_limits.py`` allows.
    """
    from datetime import datetime

    with named_extras():
        from jinja2.exceptions import SecurityError, TemplateError
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(limited(ImmutableSandboxedEnvironment)):
        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"access to attribute {attribute!r}")  # Jinja's own method renders an empty string

    class Generation(Extension):
        """The tag ``{% generation %}``, which marks the model's output for training; it only renders its body."""

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
    environment.add_filter("tojson", tojson)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format[:1000])
    try:
        return environment.from_string(template).render(variables)
    except Exception as error:  # a template can raise any Python exception
        kind = type(error).__name__
        raise ValueError(
            f"chat_template: got {kind}: {brief(error)}; accepted: a template that takes these messages"
        ) from error
