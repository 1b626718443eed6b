"""Conversations that the tests of sft train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.chat.markup import Message
from components.corpus.conversations import CONVERSATIONS_FILE, WRITE, Conversation, write_conversations
from tests.tiny_corpus import clean_rows


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/instruct` of the tiny corpus: to write a poem by its title."""
    folder = tmp_path_factory.mktemp("instruct")
    write_conversations(
        folder / CONVERSATIONS_FILE,
        [
            Conversation(
                id=f"{row['id']}-0",
                document_id=row["id"],
                kind=WRITE,
                split=row["split"],
                form=None,
                messages=[
                    Message(role="user", content=f"写《{row['title']}》"),
                    Message(role="assistant", content=row["text"]),
                ],
            )
            for row in clean_rows(200)
        ],
    )
    return folder
