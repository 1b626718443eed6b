"""Conversations as token ids, with the tokens marked that a model is to learn to write.

A sequence is the begin token and then `components.chat.markup.render(messages)`. Only what a model writes itself is marked: each
assistant's answer and the `<|im_end|>` that ends it. The line end behind it belongs to the template and is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.chat.markup import TURN_END, TURN_START, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """Token ids of one conversation and, for each of them, whether it is part of an answer (both of length T)."""
    return encode_conversations(tokenizer, [messages])[0]


def encode_conversations(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[Message]]
) -> list[tuple[list[int], list[bool]]]:
    """The same for many conversations in one call of the tokenizer, which is several times faster.

    Answers are encoded apart from what stands before them: at inference the prompt ends with `assistant` and a line
    end, and a token that spanned this seam would be one that the model never gets to write.
    """
    pieces: list[str] = []
    answers: list[bool] = []
    ends: list[int] = []  # for each conversation, how many pieces there are up to its end
    for messages in conversations:
        given = ""
        for message in messages:
            head, tail = f"{TURN_START}{message['role']}\n", TURN_END
            if message["role"] == "assistant":
                pieces += [given + head, message["content"] + tail]
                answers += [False, True]
                given = "\n"
            else:
                given += head + message["content"] + tail + "\n"
        if given:
            pieces.append(given)
            answers.append(False)
        ends.append(len(pieces))
    encoded = tokenizer(pieces, add_special_tokens=False)["input_ids"] if pieces else []
    begin = int(tokenizer.bos_token_id)
    results = []
    start = 0
    for end in ends:
        ids, mask = [begin], [False]
        for piece, is_answer in zip(encoded[start:end], answers[start:end], strict=True):
            ids += piece
            mask += [is_answer] * len(piece)
        results.append((ids, mask))
        start = end
    return results
