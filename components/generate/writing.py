"""What the command does: one or more texts, or a conversation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.chat.markup import Message, escape, render
from components.errors import InkwellError

if TYPE_CHECKING:
    import argparse

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Sampling

DEFAULT_MODELS = ("models/aligned", "models/sft", "models/base")
_SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty", "maximum_tokens")


def write(arguments: argparse.Namespace) -> None:
    """Print one text as it is written, or several one after the other."""
    from components.model.sampling import complete, stream

    settings = sampling_settings(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if arguments.chat:
        prompt = render([Message(role="user", content=escape(prompt))], add_generation_prompt=True)
    model, tokenizer = _load(arguments.model)
    if arguments.samples == 1:
        for piece in stream(model, tokenizer, prompt, settings, arguments.seed):
            print(piece, end="", flush=True)
        print()
        return
    texts = complete(model, tokenizer, [prompt] * arguments.samples, settings, arguments.seed)
    print(f"\n{'-' * 20}\n".join(text.text for text in texts))


def chat(arguments: argparse.Namespace) -> None:
    """Read a person's turns until the end of input, and answer each; old turns leave when the context is full."""
    import contextlib

    from components.model.sampling import stream

    with contextlib.suppress(ImportError):  # editing and history of the line, where the platform has it
        import readline  # noqa: F401

    settings = sampling_settings(arguments)
    model, tokenizer = _load(arguments.model)
    shown = sys.stdin.isatty()
    if shown:
        print("/reset forgets the conversation, Ctrl-D ends it.", file=sys.stderr)
    history: list[Message] = []
    turn = 0
    while True:
        try:
            said = input("> " if shown else "").strip()
        except EOFError:
            if shown:
                print(file=sys.stderr)
            return
        if said == "/reset":
            history = []
            continue
        if not said:
            continue
        try:
            room = within_context(model, tokenizer, [*history, Message(role="user", content=escape(said))], settings)
        except InkwellError as error:  # one turn too long is no reason to end a conversation
            print(f"generate: {error}", file=sys.stderr)
            continue
        answer = ""
        try:
            for piece in stream(
                model, tokenizer, render(room, add_generation_prompt=True), settings, arguments.seed + turn
            ):
                answer += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:  # Ctrl-C ends an answer, not the conversation
            pass
        print()
        turn += 1
        history = [*room, Message(role="assistant", content=escape(answer))]


def within_context(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], settings: Sampling
) -> list[Message]:
    """`messages` without the oldest turns that leave no room for an answer; a question leaves with its answer.

    Room is kept for `settings.maximum_tokens`, or for half the context where that is less. Raises InkwellError when
    the last turn alone is too long.
    """
    from components.model.sampling import encode_prompt

    context = int(model.config.max_position_embeddings)
    allowed = context - min(settings.maximum_tokens, context // 2)
    kept = list(messages)
    while True:
        length = len(encode_prompt(tokenizer, render(kept, add_generation_prompt=True)))
        if length <= allowed:
            return kept
        if len(kept) <= 2:
            raise InkwellError(
                f"That is too long: {length} tokens, and {allowed} leave room for an answer in a context of {context}; shorten it."
            )
        kept = kept[2:]


def sampling_settings(arguments: argparse.Namespace) -> Sampling:
    """`sampling` of params.yaml where the file is there, changed by the options that were given."""
    from pydantic import ValidationError

    from components.configuration import Sampling, load

    base = load(arguments.params).sampling if arguments.params.exists() else Sampling()
    given = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    try:
        return Sampling.model_validate({**base.model_dump(), **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise InkwellError(f"--{option} {first['input']}: {first['msg']}.") from None


def _load(folder: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    from components.model.folders import load_model, load_tokenizer

    if folder is None:
        there = [Path(name) for name in DEFAULT_MODELS if (Path(name) / "config.json").exists()]
        if not there:
            raise InkwellError(
                f"There is no model yet ({', '.join(DEFAULT_MODELS)}): run `make run` first, or give --model."
            )
        folder = there[0]
    from transformers.utils import logging

    logging.disable_progress_bar()
    return load_model(folder), load_tokenizer(folder)
