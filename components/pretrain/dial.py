"""One dial: minutes, or parameters, turned into all that a pretraining needs to know.

Pure: the same parameters, corpus and pace give the same answer on any machine (`components.pretrain.planning` measures the
pace and keeps the answer). More minutes never give fewer parameters, or a plan that promises less.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.pretrain.cost import peak_gib
from components.pretrain.ladder import SHAPE, Rung, ladder
from components.pretrain.transfer import RATES, batch_of, batches, micro_batch, settings

if TYPE_CHECKING:
    from components.configuration import Pretrain
    from components.corpus.packed import TokenShards
    from components.model.architectures import Count
    from components.pretrain.pace import Pace
    from components.scaling import Law

# A run ends where a repeated token teaches less than this share of a fresh one, and the ladder where a parameter more
# does less than this share of one that the corpus can fill, or of what text would: the rest of the minutes would be spent on nothing.
LEAST_WORTH = 0.2
VALIDATION_SHARE = 0.05  # of the minutes, for validations and samples in between
FEWEST_STEPS = 20
_TIMES = tuple(10 ** (step / 20) for step in range(181))  # seconds: from one to thirty years, 12 % apart
_FURTHEST_OFF = 1.3  # a number of parameters that no shape comes nearer to is refused


@dataclass(frozen=True)
class CorpusFacts:
    """What the dial asks of a corpus: tokens and documents of its training split."""

    tokens: int
    documents: int

    @classmethod
    def of(cls, train: TokenShards) -> CorpusFacts:
        """Of a packed split."""
        return cls(train.tokens, len(train))

    @property
    def mean_tokens(self) -> float:
        """Tokens a document."""
        return self.tokens / max(1, self.documents)


@dataclass(frozen=True)
class _Batch:
    """How large a batch a run of so many tokens has: by the law (`transfer.batches`), or what kept `steps` leave.

    sizes: (tokens of a batch, fewest tokens of a run it is for), rising.
    """

    sizes: Sequence[tuple[int, int]]
    steps: int | None

    def of(self, tokens: float) -> int:
        """Tokens of a batch."""
        if self.steps is None:
            return batch_of(self.sizes, tokens)
        unit = self.sizes[0][0]
        return max(1, int(tokens / self.steps / unit)) * unit


@dataclass(frozen=True)
class _Costed:
    """A rung with its cost: a step of B tokens takes B * a_token + a_step seconds. `most`: tokens that are of use to it."""

    rung: Rung
    a_token: float
    a_step: float
    most: float

    def tokens_in(self, seconds: float, batch: _Batch) -> float:
        """Most tokens of use that a run can see in `seconds`; never fewer when there are more seconds.

        None at all where the steps that are kept take longer than that even with the smallest batch.
        """
        if batch.steps is not None:
            tokens = (seconds - batch.steps * self.a_step) / self.a_token
            return min(self.most, tokens) if tokens >= batch.steps * batch.sizes[0][0] else 0.0
        bound = self.most
        for size, fewest in reversed(batch.sizes):
            if fewest > self.most:  # no run of this rung is so long; a smaller batch takes longer for as many tokens
                continue
            tokens = seconds / (self.a_token + self.a_step / size)
            if tokens >= fewest:
                return max(1.0, min(tokens, bound))
            bound = float(fewest)
        raise AssertionError("the smallest batch is for any number of tokens")


def is_set(parameters: Pretrain) -> bool:
    """Whether the dial decides anything."""
    return parameters.dial.minutes is not None or parameters.dial.parameters is not None


def turn(
    parameters: Pretrain,
    corpus: CorpusFacts,
    vocabulary: int,
    pace: Pace,
    law: Law,
    *,
    memory_gib: float | None = None,
    bf16: bool = True,
    initial: Count | None = None,
) -> Pretrain:
    """`parameters` with all set that the dial decides, and what `dial.keep` names as it was.

    With `minutes`, the shape is that for which `law` promises the lowest loss in that time at this pace; with
    `parameters` alone, the nearest shape, and the tokens at which a little more work would be as well spent on size. With
    both, that shape for those minutes. memory_gib: no shape is taken that would need more. initial: size of the weights
    that the run continues from; their shape is in `parameters`, and learning rates stay as written.

    Raises InkwellError for what cannot be: too few minutes for the smallest shape, no shape of so many parameters, more
    memory than there is, a name in `keep` that is none.
    """
    if not is_set(parameters):
        return parameters
    minutes, wanted = parameters.dial.minutes, parameters.dial.parameters
    if wanted is not None and initial:
        raise InkwellError(
            "pretrain.dial.parameters: the weights of pretrain.initial have their size; set pretrain.dial.minutes instead."
        )
    keep = _kept(parameters, continued=initial is not None)

    def fits(shape: Pretrain, count: Count) -> bool:
        return memory_gib is None or peak_gib(shape, count, vocabulary, bf16=bf16) <= memory_gib

    rungs = [Rung(parameters, initial)] if initial else ladder(parameters, vocabulary, keep)
    small = {name: 1 for name in ("micro_batch",) if name not in keep}
    fitting = [rung for rung in rungs if fits(rung.parameters.model_copy(update=small), rung.count)]
    if not fitting:
        needed = peak_gib(rungs[0].parameters.model_copy(update=small), rungs[0].count, vocabulary, bf16=bf16)
        raise InkwellError(
            f"training needs about {needed:.1f} GiB, and there are {memory_gib:.1f}: make pretrain.block or tokenizer.vocabulary "
            "smaller, let pretrain.dial.keep hold less of the shape, or set pretrain.activation_checkpointing."
        )
    if wanted is not None:
        fitting = [_nearest(fitting, wanted)]
    batch = _batch(parameters, corpus, keep)
    if minutes is None:
        rung = fitting[0]
        tokens = _balanced(law, rung.count.multiplied, corpus.tokens)
    else:
        costed = [_costed(rung, vocabulary, pace, law, corpus.tokens) for rung in fitting]
        seconds = 60 * minutes * (1 - VALIDATION_SHARE)
        rung, tokens = _best(_useful(costed, law, corpus.tokens), seconds, corpus.tokens, batch, law)
        if not tokens:
            raise InkwellError(
                f"pretrain.steps = {batch.steps:,} is kept, and so many steps take longer than pretrain.dial.minutes = "
                f"{minutes:g} even with the smallest model and batch: lower one or raise the other."
            )
    return _resolved(rung, tokens, corpus, batch, keep, fits)


def _kept(parameters: Pretrain, *, continued: bool) -> frozenset[str]:
    known = set(type(parameters).model_fields) - {"dial"}
    for name in parameters.dial.keep:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InkwellError(f"pretrain.dial.keep: {name!r} is no parameter of pretrain{hint}")
    return frozenset({*parameters.dial.keep, *((*SHAPE, *RATES) if continued else ())})


def _nearest(rungs: Sequence[Rung], wanted: int) -> Rung:
    found = min(rungs, key=lambda rung: abs(log(rung.count.total / wanted)))
    if not 1 / _FURTHEST_OFF < found.count.total / wanted < _FURTHEST_OFF:
        raise InkwellError(
            f"pretrain.dial.parameters = {wanted:,}: with this vocabulary, memory and pretrain.dial.keep there are models of "
            f"{rungs[0].count.total:,} to {rungs[-1].count.total:,} parameters."
        )
    return found


def _batch(parameters: Pretrain, corpus: CorpusFacts, keep: frozenset[str]) -> _Batch:
    """Batches as far as `keep` leaves a choice."""
    steps = parameters.steps if "steps" in keep else None
    unit = parameters.block
    for name in ("micro_batch", "accumulation"):
        unit *= getattr(parameters, name) if name in keep else 1
    if corpus.tokens < unit:
        raise InkwellError(
            f"the training split has {corpus.tokens:,} tokens, fewer than the {unit:,} of one optimizer step: add text, or "
            "make pretrain.block smaller."
        )
    if {"micro_batch", "accumulation"} <= keep:
        return _Batch([(unit, 0)], steps)
    return _Batch([(unit, 0)] if steps else batches(unit, corpus.tokens), steps)


def _costed(rung: Rung, vocabulary: int, pace: Pace, law: Law, unique: int) -> _Costed:
    a_step = pace.seconds_of_step(rung.parameters, rung.count, vocabulary, 0)
    a_token = pace.seconds_of_step(rung.parameters, rung.count, vocabulary, 1) - a_step
    return _Costed(rung, a_token, a_step, law.most_tokens(rung.count.multiplied, unique, LEAST_WORTH))


def _useful(costed: Sequence[_Costed], law: Law, unique: int) -> list[_Costed]:
    """Rungs that the corpus can fill, without those that are slower than a larger one, as narrow shapes may be.

    At the first pass' end a per cent more parameters has to be worth a fifth of what a per cent more text would be: beyond that,
    a model only takes room and time, and the law was not fitted there.
    """

    def filled_by(parameters: float) -> bool:
        size, text = (gain(parameters, unique, unique) for gain in (law.gain_of_parameters, law.gain_of_tokens))
        return law.worth_of_parameter(parameters, unique) >= LEAST_WORTH and size >= LEAST_WORTH * text

    filled = [one for one in costed if filled_by(one.rung.count.multiplied)]
    found: list[_Costed] = []
    for one in reversed(filled or costed[:1]):
        if all(one.a_token < above.a_token or one.a_step < above.a_step for above in found):
            found.append(one)
    return found[::-1]


def _best(rungs: Sequence[_Costed], seconds: float, unique: int, batch: _Batch, law: Law) -> tuple[Rung, float]:
    """The rung with the lowest loss in `seconds`, and its tokens.

    The best rung is looked up for a row of times, from little to much, the same whatever `seconds` are; among all rungs,
    since a wider one may pay where the next one of the same width does not. Once a rung had its turn no smaller one is
    taken, so that neither the parameters nor the expected quality ever fall when there is more time. Tokens may: at a turn,
    a larger model sees fewer of them.
    """

    def loss(place: int, within: float) -> float:
        tokens = rungs[place].tokens_in(within, batch)
        return law.loss(rungs[place].rung.count.multiplied, tokens, unique) if tokens else inf

    best = 0
    for time in (*(time for time in _TIMES if time < seconds), seconds):
        best = min(range(best, len(rungs)), key=lambda place: loss(place, time))
    return rungs[best].rung, rungs[best].tokens_in(seconds, batch)


def _balanced(law: Law, parameters: int, unique: int) -> float:
    """Tokens at which a per cent more of them is worth as much as a per cent more parameters: work is their product.

    No more than are of use: a model that is large for its corpus gains by neither.
    """
    low, high = 1.0, law.most_tokens(parameters, unique, LEAST_WORTH)

    def worth_more(tokens: float) -> bool:
        return law.gain_of_tokens(parameters, tokens, unique) > law.gain_of_parameters(parameters, tokens, unique)

    if worth_more(high):
        return high
    for _ in range(100):
        middle = sqrt(low * high)
        low, high = (middle, high) if worth_more(middle) else (low, middle)
    return low


def _resolved(
    rung: Rung,
    tokens: float,
    corpus: CorpusFacts,
    batch: _Batch,
    keep: frozenset[str],
    fits: Callable[[Pretrain, Count], bool],
) -> Pretrain:
    """The rung's shape with batch, steps and all that follows from them; checked as if a person had written it."""
    shape = rung.parameters
    size = batch.of(tokens)
    rows = size // shape.block
    micro = shape.micro_batch if "micro_batch" in keep else micro_batch(shape.block, rows)
    if "accumulation" in keep and "micro_batch" not in keep:
        micro = rows // shape.accumulation
    while micro % 2 == 0 and not {"micro_batch", "accumulation"} & keep:
        if fits(shape.model_copy(update={"micro_batch": micro}), rung.count):
            break
        micro //= 2
    steps = batch.steps or int(tokens / size)
    if steps < FEWEST_STEPS:
        raise InkwellError(
            f"the plan comes to {steps} steps of {size:,} tokens, and a training needs {FEWEST_STEPS}: raise "
            "pretrain.dial.minutes, make pretrain.block smaller, or write the parameters out."
        )
    values: dict[str, object] = {
        "micro_batch": micro,
        "accumulation": rows // micro,
        "steps": steps,
        **settings(
            shape,
            batch_tokens=size,
            steps=steps,
            unique=corpus.tokens,
            mean_tokens=corpus.mean_tokens,
        ),
    }
    written = shape.model_dump() | {name: value for name, value in values.items() if name not in keep}
    return type(shape).model_validate(written)
