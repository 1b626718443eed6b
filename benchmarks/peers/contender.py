"""What the race knows of a trainer that is not ours."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers.timing import ROOT, allocator
from components.errors import InkwellError
from flows.processes import Command, environment, terminating

COMPARABLE = ("qwen3", "llama", "mistral")  # architectures that have a Llama of the same shape, and as many weights
# rows of a step: the Trainer's own default, the batch of Inkwell's laptop size, and the one that its dial takes for longer runs
BATCHES = (8, 16, 32)


@dataclass(frozen=True)
class Shape:
    """A decoder like Inkwell's own: SwiGLU, RMSNorm, rotary embeddings."""

    vocabulary: int
    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    feed_forward_size: int
    tied: bool

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Shape:
        """From the `config.json` of one of COMPARABLE."""
        return cls(
            configuration["vocab_size"],
            configuration["hidden_size"],
            configuration["num_hidden_layers"],
            configuration["num_attention_heads"],
            configuration["num_key_value_heads"],
            configuration["head_dim"],
            configuration["intermediate_size"],
            configuration["tie_word_embeddings"],
        )

    def digest(self, block: int) -> str:
        """A name for models of this shape on rows of `block` tokens."""
        return hashlib.sha256(json.dumps([asdict(self), block]).encode()).hexdigest()[:8]

    def llama(self, block: int) -> dict[str, Any]:
        """Arguments of LlamaConfig; ids of the special tokens are those of every Inkwell tokenizer."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.feed_forward_size,
            "max_position_embeddings": block,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
            "use_cache": False,
        }


@dataclass(frozen=True)
class Run:
    """One run of a trainer over `tokens`, in `folder`: `steps` steps of `batch` rows of `block` tokens."""

    folder: Path
    tokens: Path
    shape: Shape
    rate: float
    steps: int
    batch: int
    block: int
    saves: int = 1
    seed: int = 1


class Peer(Protocol):
    """Another trainer, with the settings that its own documentation recommends."""

    name: str
    modes: Sequence[str]  # ways to run it of which the fastest is taken
    rates: Sequence[float]  # learning rates of which the best is taken
    batches: Sequence[int]  # rows of a step, of which the best is taken

    def install(self, folder: Path) -> None:
        """Make it ready; not on the clock."""
        ...

    def command(self, run: Run, mode: str) -> list[str]:
        """The command that trains; what it reads is written into the run's folder."""
        ...

    def step(self, line: str) -> int | None:
        """The optimizer step that a line of its output says has ended."""
        ...

    def weights(self, run: Run) -> list[tuple[int, dict[str, Any]]]:
        """(step, entry for `benchmarks.peers.scores`) of what the run kept, the last step last. Not on the clock."""
        ...


def scored(folder: Path, request: Mapping[str, Any]) -> list[float]:
    """Bits per character of the models of `request` (benchmarks.peers.scores), by a process of its own."""
    path = folder / "scores.json"
    path.write_text(json.dumps(request, indent=1), encoding="utf-8")
    last = said([sys.executable, "-m", "benchmarks.peers.scores", str(path)], folder)
    found: list[float] = json.loads(last)
    return found


def said(command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None, show: bool = False) -> str:
    """The last line that a command says; the lines before it are printed with `show`. InkwellError when it fails."""
    last = ""
    env = environment() | {"PYTHONPATH": str(ROOT), **allocator(), **(variables or {})}
    with terminating(), Command(command, folder, env, together=True) as running:
        for line in running.lines():
            if show and last:
                print(last, flush=True)
            last = line.rstrip() or last
        if running.wait():
            raise InkwellError(f"{' '.join([Path(command[0]).name, *command[1:]])} failed: {last}")
    return last
