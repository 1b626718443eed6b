"""Conversations and instruction sets as documents: turns become text, and stay what they are in the metadata.

Shapes that are met: ShareGPT's `[{from, value}]` (WizardLM, OpenHermes), OpenAI's `[{role, content}]` (UltraChat, smoltalk),
and a request beside its answer in fields of their own (Alpaca: instruction, input, output).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.chat.markup import Message
from components.errors import InkwellError

_SPEAKER, _WORDS = ("role", "from", "speaker"), ("content", "value", "text")
_ROLES = {
    **dict.fromkeys(("human", "user", "prompter", "question", "instruction"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt", "bard", "bing", "answer"), "assistant"),
}


def messages(found: Any) -> list[Message] | None:
    """A list of turns with roles named as in ChatML; None where `found` is something else.

    Roles other than user, assistant and system keep the name that they have.
    """
    if not isinstance(found, list) or not found:
        return None
    turns = [_message(turn) for turn in found]
    return [turn for turn in turns if turn is not None] if all(turns) else None


def request_and_answer(value: Mapping[str, Any], fields: Sequence[str], answer: str, place: str) -> list[Message]:
    """Two turns: the fields of the request that are not blank, divided by a blank line, and the answer.

    Raises InkwellError for a record that has none of `fields`.
    """
    if not any(name in value for name in fields):
        raise InkwellError(
            f"{place} has none of the fields {', '.join(fields)}; its fields are: {', '.join(map(str, value)) or 'none'}. Set `prompt_fields`."
        )
    parts = [str(value[name]).strip() for name in fields if value.get(name) is not None]
    return [{"role": "user", "content": "\n\n".join(filter(None, parts))}, {"role": "assistant", "content": answer}]


def as_text(turns: Sequence[Message]) -> str:
    """The turns as a text to be read: `role: content`, with a blank line between."""
    return "\n\n".join(f"{turn['role']}: {turn['content'].strip()}" for turn in turns)


def _message(turn: Any) -> Message | None:
    if not isinstance(turn, Mapping):
        return None
    speaker = next((turn[name] for name in _SPEAKER if isinstance(turn.get(name), str)), None)
    words = next((_words(turn[name]) for name in _WORDS if turn.get(name) is not None), None)
    if speaker is None or words is None:
        return None
    return {"role": _ROLES.get(speaker.strip().lower(), speaker.strip().lower()), "content": words}


def _words(content: Any) -> str | None:
    """A turn's text; of a list of parts (text, pictures) those that are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        return "\n".join(part for part in parts if isinstance(part, str))
    return None
