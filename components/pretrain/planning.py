"""From parameters to a plan that is worked out once, kept with the run, and followed by every process that resumes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.atomic import atomic_file
from components.errors import InkwellError
from components.model.architectures import count
from components.pretrain.cost import peak_gib
from components.pretrain.dial import LEAST_WORTH, CorpusFacts, turn
from components.pretrain.ladder import wider
from components.pretrain.pace import Pace
from components.pretrain.plan import Plan, planned
from components.scaling import Law

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.configuration import Pretrain
    from components.corpus.packed import TokenShards
    from components.model.architectures import Count


class Probe(Protocol):
    """Times optimizer steps on this machine."""

    def __call__(self, parameters: Pretrain) -> float:
        """Seconds of a step of these parameters, measured now."""
        ...

    def known(self, parameters: Pretrain) -> Pace | None:
        """What earlier runs of the same kind measured here, if there were any.

        It decides which shape is timed first. As fast or slow as that step shows the machine to be today, it then stands for
        the widths that are not timed, so that it may decide which shape is taken.
        """
        ...

    def learn(self, parameters: Pretrain, pace: Pace) -> None:
        """Keep this for the next run, beside the widths that are known and not in it."""
        ...


PLAN = "plan.json"
_LAW = Path(__file__).with_name("law.yaml")
_PROBES = 3  # shapes that are timed at most
# Before anything was timed: about two cores of a laptop. It decides which shape is timed first, nothing else.
_GUESS = Pace(((256, 1e11),))
_ENOUGH_MINUTES = 5.0  # for the smallest shape, at that pace; with fewer, one shape is timed
_TOO_MANY = 1.1  # times the tokens that are of use by the law, which is no more exact than that


def law() -> Law:
    """The law of `law.yaml`."""
    import yaml

    values: dict[str, Any] = yaml.safe_load(_LAW.read_text(encoding="utf-8"))
    values.pop("runs")  # which it was fitted to
    return Law(**values)


def resolve(
    parameters: Pretrain,
    train: TokenShards,
    work: Path,
    *,
    vocabulary: int,
    probe: Probe | None,
    bf16: bool = True,
    memory_gib: float | None = None,
    initial: Count | None = None,
    processes: int = 1,
    gain: float | None = None,
    timed_gib: float | None = None,
) -> tuple[Pretrain, Plan]:
    """The parameters that a run really has, and its plan; kept in `work`/plan.json, and read from there the next time.

    Where the dial is not set, the parameters are those that were given. probe: `components.pretrain.probe`, asked for at
    most three shapes; None: nothing is timed, so a plan has no minutes, and a dial in minutes is refused. initial: size of
    the weights that the run continues from, whose shape `parameters` then have (`shaped_like`).
    memory_gib: what a process may take; the dial chooses nothing larger. processes: that train together, each as fast
    as the one that is timed. gain: how many times as fast several processes are as the one that the plan was made for: it
    is made again for them, by what was timed then. timed_gib: what the one process that times steps may take, where
    several hold the model together.

    Raises InkwellError as `components.pretrain.dial.turn` does, and for minutes where no step can be timed.
    """
    corpus, trusted = CorpusFacts.of(train), law()

    def size(shape: Pretrain) -> Count:
        return initial or count(shape, vocabulary)

    def turned(pace: Pace, among: Pretrain = parameters) -> Pretrain:
        return turn(among, corpus, vocabulary, pace, trusted, memory_gib=memory_gib, bf16=bf16, initial=initial)

    def timeable(shape: Pretrain) -> Pretrain | None:
        """`shape`, with fewer layers where one process cannot hold it: a pace is that of a width. None: not even one layer."""
        while timed_gib is not None and peak_gib(shape, size(shape), vocabulary, bf16=bf16) > timed_gib:
            if initial or shape.layers == 1:
                return None
            shape = shape.model_copy(update={"layers": shape.layers // 2})
        return shape

    def timed(shape: Pretrain, pace: Pace) -> Pace | None:
        assert probe is not None
        smaller = timeable(shape)
        if smaller is None:
            return None
        return pace.with_step(smaller, size(smaller), vocabulary, smaller.batch_tokens, probe(smaller))

    def measured() -> tuple[Pretrain, Pace]:
        pace = Pace((), processes)
        minutes = parameters.dial.minutes
        if minutes is None:
            resolved = turned(_GUESS)
            return resolved, (timed(resolved, pace) or pace) if probe else pace
        if probe is None:
            raise InkwellError(
                "pretrain.dial.minutes needs a machine to measure: set pretrain.dial.parameters instead."
            )
        known = probe.known(parameters)
        resolved = _first(turned, parameters, known)
        tried: set[tuple[int, int]] = set()
        while len(tried) < _PROBES:
            shape: Pretrain | None = resolved
            if _form(resolved) in tried:
                # one width says nothing of the next: whether it pays to be wider is measured too
                settled = len(pace.measured) > 1 or minutes < _ENOUGH_MINUTES or initial
                shape = None if settled else wider(resolved, vocabulary, parameters.dial.keep)
            if shape is None:
                break
            tried.add(_form(shape))
            found = timed(shape, pace)
            if found is None:
                if not pace.measured:
                    raise InkwellError(
                        "pretrain.dial.minutes needs steps to be timed, and none of this width fits into the "
                        f"{timed_gib:.1f} GiB of one process: set pretrain.dial.parameters or pretrain.steps instead."
                    )
                break
            pace = found
            if known is not None and len(tried) == 1:  # today's machine may be busier, at all widths alike
                pace = replace(known.meeting(pace, shape.hidden_size), processes=processes)
            resolved = turned(pace)
        return resolved, pace

    kept = work / PLAN
    if kept.exists():
        saved = json.loads(kept.read_text(encoding="utf-8"))
        # what the dial has not decided may have been changed since
        resolved = type(parameters).model_validate(parameters.model_dump() | saved["decided"])
        measured_then = tuple((width, rate) for width, rate in saved["measured"])
        pace = Pace(measured_then, saved.get("processes", processes), saved.get("gain", 1.0))
        if gain is not None:
            pace = replace(pace, gain=gain)
            resolved = turned(pace)
    else:
        resolved, pace = measured()
        if probe and pace.measured:
            probe.learn(parameters, pace)
    plan = planned(
        resolved, size(resolved), corpus, vocabulary, trusted, pace=pace if pace.measured else None, bf16=bf16
    )
    if gain is not None or not kept.exists():
        written = parameters.model_dump(mode="json")
        decided = {name: value for name, value in resolved.model_dump(mode="json").items() if value != written[name]}
        described = {"decided": decided, **asdict(pace), "plan": asdict(plan)}
        with atomic_file(kept) as temporary:
            temporary.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return resolved, plan


def _first(turned: Callable[..., Pretrain], parameters: Pretrain, known: Pace | None) -> Pretrain:
    """The shape that is timed first: what would be chosen at the pace that is known, or assumed."""
    if known is not None:
        with suppress(InkwellError):  # too few minutes, at a pace that need not be today's
            return turned(known)
    enough = parameters.dial.model_copy(update={"minutes": max(parameters.dial.minutes or 0, _ENOUGH_MINUTES)})
    return turned(_GUESS, parameters.model_copy(update={"dial": enough}))


def too_many_passes(parameters: Pretrain, size: Count, train: TokenShards) -> str | None:
    """A sentence where the law says that a run of these steps goes on long after its corpus has taught what it can."""
    most = law().most_tokens(size.multiplied, train.tokens, LEAST_WORTH)
    if parameters.total_tokens <= _TOO_MANY * most:
        return None
    return (
        f"{parameters.total_tokens / train.tokens:.1f} passes over this corpus, and after {most / train.tokens:.1f} a model of "
        f"this size learns next to nothing more: set pretrain.steps={max(1, int(most / parameters.batch_tokens))}, or let "
        "size=auto plan for the corpus"
    )


def _form(parameters: Pretrain) -> tuple[int, int]:
    return parameters.hidden_size, parameters.layers


def shaped_like(parameters: Pretrain, model: PreTrainedModel) -> Pretrain:
    """`parameters` with the shape that a loaded model has, for `resolve` and for what is told of the run."""
    from components.model.architectures import TABLE, of

    config, kind = model.config, of(model.config)
    read = {
        # what a plan knows of other recurrent families is that there is no attention to count
        "architecture": kind.name if kind.name in TABLE else ("mamba2" if kind.recurrent else None),
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": getattr(config, "num_attention_heads", None) or getattr(config, "num_heads", None),
        "feed_forward_size": getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None),
        "tie_embeddings": config.tie_word_embeddings,
    }
    found = {name: value for name, value in read.items() if value is not None}
    if "heads" in found:
        found["key_value_heads"] = getattr(config, "num_key_value_heads", None) or found["heads"]
    return parameters.model_copy(update=found)
