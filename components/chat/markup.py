"""ChatML: the markers, the template and the escaping that keeps markers out of users' text.

Format by OpenAI, as used by Qwen: every turn is `<|im_start|>role\\ncontent<|im_end|>\\n`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
ROLES = ("system", "user", "assistant")

# Everything a tokenizer may read as one special token although a person typed it.
SPECIAL_TEXTS = ("<unk>", "<s>", "</s>", "<pad>", TURN_START, TURN_END)

# Jinja, as transformers and llama.cpp both render it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Message(TypedDict):
    """One turn: `role` is one of ROLES."""

    role: str
    content: str


def render(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The same string that CHAT_TEMPLATE renders."""
    turns = "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)
    return turns + (f"{TURN_START}assistant\n" if add_generation_prompt else "")


def escape(text: str) -> str:
    """Put a zero-width space after the first character of every literal marker, so that no tokenizer reads it as one."""
    if "<" not in text:  # as every marker begins; this is asked of every document
        return text
    for marker in SPECIAL_TEXTS:
        text = text.replace(marker, marker[0] + "\u200b" + marker[1:])
    return text
