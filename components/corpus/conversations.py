"""The contract of conversations and preference pairs: what instruct and align write and what later steps read.

Conversations (`data/instruct/conversations.parquet`) are what sft trains on; preference pairs
(`data/preferences/preferences.parquet`) are what align trained on, kept for people to look at. Both name the document
they were made of, so that every answer can be followed back to its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.chat.markup import ROLES, Message
from components.corpus.documents import TRAIN, VALIDATION, read_table, write_documents
from components.errors import InkwellError

if TYPE_CHECKING:
    import pyarrow as pa

CONVERSATIONS_FILE = "conversations.parquet"
PREFERENCES_FILE = "preferences.parquet"

WRITE, WRITE_IN_STYLE, CONTINUE, WHO_WROTE, REFUSAL = "write", "write_in_style", "continue", "who_wrote", "refusal"
KINDS = (WRITE, WRITE_IN_STYLE, CONTINUE, WHO_WROTE, REFUSAL)


@dataclass(frozen=True)
class Conversation:
    """One conversation made of one document.

    `form` is the number of characters that the question asks for in every line of the answer; None where it asks for
    no form. `split` is the document's own, so that nothing held out is trained on.
    """

    id: str
    document_id: str
    kind: str
    split: str
    form: int | None
    messages: list[Message]

    @property
    def prompt(self) -> list[Message]:
        """All turns before the last answer."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Preference:
    """Two answers to the turns in `prompt`; `made` names how the rejected one came about."""

    id: str
    document_id: str
    prompt: list[Message]
    chosen: str
    rejected: str
    made: str
    form: int | None


def _messages_type() -> pa.DataType:
    import pyarrow as pa

    return pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))


def conversation_schema() -> pa.Schema:
    """Columns of `conversations.parquet`: the fields of Conversation."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("document_id", pa.string()),
            pa.field("kind", pa.string()),
            pa.field("split", pa.string()),
            pa.field("form", pa.int64()),
            pa.field("messages", _messages_type()),
        ]
    )


def preference_schema() -> pa.Schema:
    """Columns of `preferences.parquet`: the fields of Preference."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("document_id", pa.string()),
            pa.field("prompt", _messages_type()),
            pa.field("chosen", pa.string()),
            pa.field("rejected", pa.string()),
            pa.field("made", pa.string()),
            pa.field("form", pa.int64()),
        ]
    )


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Check and write conversations atomically as Parquet; returns how many there were."""

    def rows() -> Iterator[dict[str, Any]]:
        for index, conversation in enumerate(conversations):
            check_conversation(conversation, f"{path}: row {index}")
            yield asdict(conversation)

    return write_documents(path, rows(), conversation_schema())


def read_conversations(path: Path, split: str | None = None) -> list[Conversation]:
    """The conversations of a file, in file order; of one split where one is named.

    Raises InkwellError naming the file and row where a conversation breaks the contract, or when none is left.
    """
    conversations = []
    for index, row in enumerate(read_table(path, conversation_schema()).to_pylist()):
        conversation = Conversation(**row)
        check_conversation(conversation, f"{path}: row {index}")
        if split is None or conversation.split == split:
            conversations.append(conversation)
    if not conversations:
        which = f"no {split} conversations" if split else "no conversations"
        raise InkwellError(f"{path} holds {which}: add documents, or change the weights of the kinds under instruct.")
    return conversations


def check_conversation(conversation: Conversation, where: str) -> None:
    """Raise InkwellError, starting with `where`, when a conversation breaks the contract."""
    if conversation.kind not in KINDS:
        raise InkwellError(f"{where}: kind {conversation.kind!r} is none of {', '.join(KINDS)}.")
    if conversation.split not in (TRAIN, VALIDATION):
        raise InkwellError(f"{where}: split {conversation.split!r} is neither {TRAIN} nor {VALIDATION}.")
    check_messages(conversation.messages, where)
    if conversation.messages[-1]["role"] != "assistant":
        raise InkwellError(f"{where}: the last turn is not an assistant's, so there is nothing to learn from it.")


def check_messages(messages: Sequence[Message], where: str) -> None:
    """Raise InkwellError unless there is a turn, every role is known and every turn says something."""
    if not messages:
        raise InkwellError(f"{where}: the conversation has no turns.")
    for turn, message in enumerate(messages):
        if message["role"] not in ROLES:
            raise InkwellError(f"{where}: turn {turn} has the role {message['role']!r}, none of {', '.join(ROLES)}.")
        if not message["content"] or not message["content"].strip():
            raise InkwellError(f"{where}: turn {turn} ({message['role']}) is empty.")


def write_preferences(path: Path, preferences: Iterable[Preference]) -> int:
    """Check and write preference pairs atomically as Parquet; returns how many there were."""

    def rows() -> Iterator[dict[str, Any]]:
        for index, preference in enumerate(preferences):
            check_preference(preference, f"{path}: row {index}")
            yield asdict(preference)

    return write_documents(path, rows(), preference_schema())


def read_preferences(path: Path) -> list[Preference]:
    """The preference pairs of a file, in file order; InkwellError where one breaks the contract."""
    preferences = [Preference(**row) for row in read_table(path, preference_schema()).to_pylist()]
    for index, preference in enumerate(preferences):
        check_preference(preference, f"{path}: row {index}")
    return preferences


def check_preference(preference: Preference, where: str) -> None:
    """Raise InkwellError, starting with `where`, when a pair breaks the contract."""
    check_messages(preference.prompt, where)
    if not preference.chosen.strip():
        raise InkwellError(f"{where}: the chosen answer is empty.")
    if preference.chosen == preference.rejected:
        raise InkwellError(f"{where}: the chosen and the rejected answer are the same.")
