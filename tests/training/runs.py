"""Small runs of the real loop, in this process or in one that is killed."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from components.configuration.training import Optimization, Parallel
from components.launch.processes import Place
from components.machine.choices import Choices
from components.model.architectures import build, new_model
from components.tracking import Recorder
from components.training.computation import Computation
from components.training.distributed import World
from components.training.loop import Outcome, fit
from components.training.recipe import Training, prepare
from components.training.run import Run
from components.training.run_log import RunLog
from tests.tiny_models import tiny

SMALL: dict[str, Any] = {
    "steps": 12,
    "block": 32,
    "micro_batch": 4,
    "accumulation": 1,
    "warmup_steps": 2,
    "learning_rate": 0.01,
    "validation_every": 5,
    "checkpoints": {"minutes": 1e-6},  # after every step
}


class Tiny:
    """Sequences with a pattern to learn: each counts on from where it began, modulo 61, from token 3."""

    def __init__(self, count: int = 120) -> None:
        rng = np.random.default_rng(5)
        starts, lengths = rng.integers(0, 61, count), rng.integers(6, 50, count)
        self._tokens = [3 + (start + np.arange(n)) % 61 for start, n in zip(starts, lengths, strict=True)]
        self.lengths: NDArray[np.int64] = lengths
        self.fingerprint = f"tiny-{count}"

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, index: int) -> NDArray[np.int64]:
        return np.asarray(self._tokens[index], dtype=np.int64)

    def counted(self, index: int) -> None:
        return None


def tiny_decoder(seed: int = 0, dropout: float = 0.0, architecture: str = "llama") -> PreTrainedModel:
    """Two layers, 32 wide; vocabulary 64. GPT-2's head is tied to its embeddings."""
    torch.manual_seed(seed)
    if architecture != "llama":
        shape = {"hidden_size": 32, "heads": 2, "key_value_heads": 2, "feed_forward_size": 48}
        tied = architecture == "gpt2"
        return build(tiny(architecture, **shape, dropout=dropout, tie_embeddings=tied), vocabulary=64)
    return new_model(
        "llama",
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
        tie_word_embeddings=False,
    )


def plain_choices(fused: str) -> Choices:
    """Float32, eager, one thread: what every machine computes nearly alike."""
    return Choices("cpu", 1, precision="fp32", compile=False, fused=fused)


def quick_validation(model: PreTrainedModel) -> dict[str, float]:
    """Mean loss of one fixed row."""
    row = torch.arange(3, 35)[None]
    with torch.inference_mode():
        return {"validation": float(model(input_ids=row, labels=row).loss)}


def prepared(
    dropout: float = 0.0,
    data: Tiny | None = None,
    fused: str = "off",
    world: World | None = None,
    architecture: str = "llama",
    **parameters: Any,
) -> Training:
    """A training of the tiny decoder; `parameters` change `SMALL`. world: of several processes, where there are some."""
    optimization = Optimization(**{**SMALL, **parameters})
    torch.set_num_threads(1)
    model = tiny_decoder(dropout=dropout, architecture=architecture)
    return prepare(
        optimization,
        model,
        data or Tiny(),
        11,
        plain_choices(fused),
        world or World(Place(), Parallel()),
        residual_dropout=dropout,
        sample_every=6,
    )


def held_run(folder: Path) -> Run:
    """The run that lies in `folder`."""
    work, kept = folder / "work", folder / "kept"
    return Run(work, kept, RunLog(kept / "run.log"), resumes=any((work / "checkpoints").glob("rows-*")))


def fitted(
    training: Training,
    folder: Path,
    validate: Callable[[PreTrainedModel], dict[str, float]] = quick_validation,
    sample: Callable[[PreTrainedModel], list[str]] = lambda model: [
        f"{float(next(model.parameters()).detach().sum()):.6f}"
    ],
) -> Outcome:
    """Do `training` in `folder`, going on from what lies there."""
    return fit(
        training,
        label="tiny",
        run=held_run(folder),
        recorder=Recorder(),
        validate=validate,
        sample=sample,
        save_model=lambda model, target: model.save_pretrained(target),
    )


def train(
    folder: Path,
    wrap: Callable[[Computation], Computation] | None = None,
    validate: Callable[[PreTrainedModel], dict[str, float]] = quick_validation,
    **parameters: Any,
) -> Outcome:
    """Train in `folder`, going on from what lies there; `wrap` may interfere with the computation."""
    training = prepared(**parameters)
    if wrap is not None:
        training.computation = wrap(training.computation)
    return fitted(training, folder, validate)


class Interfering:
    """A computation that does something else at some of its calls; the first call of this process is number 1."""

    def __init__(self, inner: Computation, at: dict[int, Callable[[torch.Tensor], torch.Tensor]]) -> None:
        self.inner, self.at, self.calls = inner, at, 0

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss = self.inner.loss_sum(inputs, targets, numbers)
        return self.at.get(self.calls, lambda same: same)(loss)

    def weights_changed(self) -> None:
        self.inner.weights_changed()


class ByRows:
    """A computation that does something else for rows with certain content, whichever process meets them."""

    def __init__(self, inner: Computation, wanted: Callable[[int], bool], change: Callable[[Any], Any]) -> None:
        self.inner, self.wanted, self.change = inner, wanted, change

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        loss = self.inner.loss_sum(inputs, targets, numbers)
        return self.change(loss) if self.wanted(content(inputs)) else loss  # type: ignore[no-any-return]

    def weights_changed(self) -> None:
        self.inner.weights_changed()


def content(inputs: torch.Tensor) -> int:
    """A number that tells batches apart."""
    return zlib.crc32(inputs.numpy().tobytes())


def killed_at(
    call: int, folder: Path, around: Callable[[Computation], Computation] | None = None, **parameters: Any
) -> None:
    """Train in a process of its own that is killed with -9 in its `call`-th forward pass."""

    def die(_: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive")

    child = os.fork()
    if child == 0:
        try:
            train(folder, lambda inner: Interfering(around(inner) if around else inner, {call: die}), **parameters)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it ended with {os.waitstatus_to_exitcode(status)} before it could be killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def assert_same_end(one: Outcome, other: Outcome) -> None:
    """Same curve, same samples, same weights, to the last bit."""
    assert one.curve == other.curve
    assert one.samples == other.samples
    assert one.model is not None
    assert other.model is not None
    for (name, a), (_, b) in zip(one.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
