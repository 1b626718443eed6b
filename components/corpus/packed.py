"""The packed corpus: token ids of all documents in memory-mapped shards, with the boundaries of the documents.

`data/tokens` holds `meta.json` and, a split and shard, `<split>-00000.bin` (ids, little endian, uint16 where the
vocabulary is below 65,536, else uint32) and `<split>-00000.offsets.npy` (int64 [D+1]: document i of the shard is
ids[offsets[i]:offsets[i+1]]). Every document is [begin, ..., end] and stands whole in one shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

META = "meta.json"


def token_type(vocabulary: int) -> str:
    """numpy's name of the smallest type that holds the ids of a vocabulary."""
    return "<u2" if vocabulary < 65_536 else "<u4"


@dataclass(frozen=True)
class SplitSummary:
    """What a `ShardWriter` wrote. `characters` are those of the contents, without begin and end marks."""

    documents: int
    tokens: int
    characters: int
    longest: int
    shards: list[dict[str, Any]]


class ShardWriter:
    """Writes one split, document after document, into shards of about `shard_tokens` tokens."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int) -> None:
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, shard_tokens
        self._documents = self._tokens = self._characters = self._longest = 0
        self._shards: list[dict[str, Any]] = []
        self._offsets = [0]
        self._file: Any = None
        self._hash: Any = None

    def add(self, tokens: NDArray[np.unsignedinteger], characters: int) -> None:
        """Append a document of `characters` characters."""
        if self._file is not None and self._offsets[-1] + len(tokens) > self._limit:
            self._finish_shard()
        if self._file is None:
            self._file = (self._folder / f"{self._name()}.bin").open("wb")
            self._hash = hashlib.sha256()
        data = tokens.astype(self._dtype, copy=False).tobytes()
        self._file.write(data)
        self._hash.update(data)
        self._offsets.append(self._offsets[-1] + len(tokens))
        self._documents += 1
        self._tokens += len(tokens)
        self._characters += characters
        self._longest = max(self._longest, len(tokens))

    def close(self) -> SplitSummary:
        """Finish the last shard."""
        if self._file is not None:
            self._finish_shard()
        return SplitSummary(self._documents, self._tokens, self._characters, self._longest, self._shards)

    def _name(self) -> str:
        return f"{self._split}-{len(self._shards):05}"

    def _finish_shard(self) -> None:
        import numpy as np

        self._file.close()
        offsets = np.array(self._offsets, dtype="<i8")
        np.save(self._folder / f"{self._name()}.offsets.npy", offsets)
        self._hash.update(offsets.tobytes())
        self._shards.append(
            {
                "name": self._name(),
                "documents": len(offsets) - 1,
                "tokens": int(offsets[-1]),
                "sha256": self._hash.hexdigest(),  # of the ids' bytes, then the offsets'
            }
        )
        self._file, self._offsets = None, [0]


def write_meta(folder: Path, vocabulary: int, tokenizer_sha256: str, splits: Mapping[str, SplitSummary]) -> None:
    """Write `meta.json`, which says what the shards of `folder` hold."""
    meta = {
        "vocabulary": vocabulary,
        "dtype": {"<u2": "uint16", "<u4": "uint32"}[token_type(vocabulary)],
        "tokenizer_sha256": tokenizer_sha256,
        "splits": {
            split: {
                "documents": summary.documents,
                "tokens": summary.tokens,
                "characters": summary.characters,
                "shards": summary.shards,
            }
            for split, summary in splits.items()
        },
    }
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


class TokenShards:
    """One split of a packed corpus, memory-mapped: opening costs nothing, and pickling sends only its path.

    Attributes: `tokens` and `characters` (totals; characters without begin and end marks), `lengths` (int64 [D],
    tokens of each document, marks included), `vocabulary`, `tokenizer_sha256` (of its file, `components.vocabulary.spelling.identity`), and
    `fingerprint`, which changes whenever a token or boundary of the split does.
    """

    def __init__(self, folder: Path, split: str) -> None:
        import numpy as np

        self.folder, self.split = Path(folder), split
        meta = _read_meta(self.folder)
        if split not in meta["splits"]:
            raise InkwellError(f"{self.folder / META} has no split {split!r}: run the tokenize step again.")
        part = meta["splits"][split]
        self.vocabulary = int(meta["vocabulary"])
        self.tokenizer_sha256 = str(meta["tokenizer_sha256"])
        self.tokens = int(part["tokens"])
        self.characters = int(part["characters"])
        self._part = part
        dtype = np.dtype(token_type(self.vocabulary))
        self._ids: list[NDArray[np.unsignedinteger]] = []
        self._offsets: list[NDArray[np.int64]] = []
        for shard in part["shards"]:
            ids, offsets = _open_shard(self.folder, shard, dtype)
            self._ids.append(ids)
            self._offsets.append(offsets)
        self._starts = np.cumsum([0, *(shard["documents"] for shard in part["shards"])])
        self.lengths: NDArray[np.int64] = np.concatenate([np.zeros(0, np.int64), *map(np.diff, self._offsets)])
        if (len(self.lengths), int(self.lengths.sum())) != (part["documents"], part["tokens"]):
            raise InkwellError(f"{self.folder / META} and the shards of {split} disagree: run the tokenize step again.")

    def __len__(self) -> int:
        """Documents."""
        return len(self.lengths)

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Ids of document `index`, [begin, ..., end]: a read-only view of the mapped file."""
        import numpy as np

        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        start, end = self._offsets[shard][index - self._starts[shard] :][:2]
        return self._ids[shard][start:end]

    @property
    def fingerprint(self) -> str:
        """Hash of the content, from the shards' hashes in `meta.json`; costs no reading of the shards."""
        described = [self.vocabulary, self.tokenizer_sha256, self.split, self._part]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def verify(self) -> None:
        """Read every shard and compare it with its hash; InkwellError names the shard that was changed."""
        for shard, ids, offsets in zip(self._part["shards"], self._ids, self._offsets, strict=True):
            digest = hashlib.sha256(ids.tobytes())
            digest.update(offsets.tobytes())
            if digest.hexdigest() != shard["sha256"]:
                raise InkwellError(
                    f"{self.folder / shard['name']}.bin was changed after it was written: run the tokenize step again."
                )

    def __getstate__(self) -> tuple[Path, str]:
        return self.folder, self.split

    def __setstate__(self, state: tuple[Path, str]) -> None:
        TokenShards.__init__(self, *state)


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    if not path.exists():
        raise InkwellError(f"{path} does not exist: run the tokenize step first.")
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if meta["vocabulary"] and meta["tokenizer_sha256"] and isinstance(meta["splits"], dict):
            return meta
    except (ValueError, KeyError, TypeError):
        pass
    raise InkwellError(f"{path} is damaged: run the tokenize step again.")


def _open_shard(folder: Path, shard: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    import numpy as np

    path = folder / f"{shard['name']}.bin"
    boundaries = folder / f"{shard['name']}.offsets.npy"
    for file in (path, boundaries):
        if not file.exists():
            raise InkwellError(f"{file} is missing: run the tokenize step again.")
    expected = int(shard["tokens"]) * dtype.itemsize
    if path.stat().st_size != expected:
        raise InkwellError(
            f"{path} has {path.stat().st_size:,} bytes instead of {expected:,}: run the tokenize step again."
        )
    try:
        offsets = np.load(boundaries, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InkwellError(f"{boundaries} is damaged: run the tokenize step again.") from error
    ordered = offsets.ndim == 1 and len(offsets) == shard["documents"] + 1 and bool((np.diff(offsets) > 0).all())
    if not ordered or offsets[0] != 0 or offsets[-1] != shard["tokens"]:
        raise InkwellError(f"{boundaries} does not fit its shard: run the tokenize step again.")
    return np.memmap(path, dtype=dtype, mode="r"), offsets
