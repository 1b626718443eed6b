"""The dial over the whole range it is made for: corpora of 100 kB to 10 GB, a minute to a week, 1 M to 1 G parameters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from components.configuration import Pretrain
from components.errors import InkwellError
from components.model.architectures import count
from components.pretrain.cost import peak_gib
from components.pretrain.dial import LEAST_WORTH, CorpusFacts, turn
from components.pretrain.ladder import ladder
from components.pretrain.pace import Pace
from components.pretrain.plan import Plan, planned
from components.pretrain.planning import law
from components.scaling import PUBLISHED, Law

LAPTOP = Pace(((256, 2e11),))
# tokens, documents, vocabulary
CORPORA = {
    "100 kB": (35_000, 500, 1024),
    "1 MB": (300_000, 4_000, 4096),
    "Tang": (3_900_000, 51_000, 4096),
    "250 MB": (60_000_000, 100_000, 16_000),
    "10 GB": (2_500_000_000, 3_000_000, 32_000),
}
MINUTES = (1, 1.5, 3, 6, 10, 15, 16, 17, 30, 60, 90, 200, 500, 1440, 10_080)
LAWS = {"shipped": law(), "published": PUBLISHED}


def turned(corpus: str, pace: Pace = LAPTOP, trusted: Law | None = None, **options: Any) -> tuple[Pretrain, Plan]:
    tokens, documents, vocabulary = CORPORA[corpus]
    dial = {name: options.pop(name) for name in ("minutes", "parameters", "keep") if name in options}
    memory = options.pop("memory_gib", None)
    facts = CorpusFacts(tokens, documents)
    trusted = trusted or law()
    found = turn(Pretrain(dial=dial, **options), facts, vocabulary, pace, trusted, memory_gib=memory)
    return found, planned(found, count(found, vocabulary), facts, vocabulary, trusted, pace=pace)


def expected(corpus: str, plan: Plan, trusted: Law) -> float:
    """Loss that the law promises for a plan, nats a token."""
    return trusted.loss(plan.multiplied, plan.tokens, CORPORA[corpus][0])


def test_a_dial_that_is_not_set_changes_nothing() -> None:
    parameters = Pretrain(hidden_size=192, layers=3, heads=3, key_value_heads=3, weight_decay=0.3)
    assert turn(parameters, CorpusFacts(10**6, 100), 4096, LAPTOP, PUBLISHED) is parameters


@pytest.mark.parametrize("trusted", LAWS)
@pytest.mark.parametrize("corpus", CORPORA)
def test_more_minutes_never_give_less(corpus: str, trusted: str) -> None:
    plans = [turned(corpus, trusted=LAWS[trusted], minutes=minutes)[1] for minutes in MINUTES]
    for less, more in pairwise(plans):
        assert more.parameters >= less.parameters
        assert more.multiplied >= less.multiplied
        # the choice is made before less than a step is cut off
        cut = LAWS[trusted].loss(more.multiplied, more.tokens + more.batch_tokens, CORPORA[corpus][0])
        assert min(cut, expected(corpus, more, LAWS[trusted])) <= expected(corpus, less, LAWS[trusted])


@pytest.mark.parametrize("corpus", CORPORA)
def test_minutes_are_kept_and_used_until_the_corpus_is_spent(corpus: str) -> None:
    for minutes in MINUTES:
        _, plan = turned(corpus, minutes=minutes)
        spent = law().most_tokens(plan.multiplied, CORPORA[corpus][0], LEAST_WORTH)
        assert plan.seconds is not None
        assert plan.seconds <= 60 * minutes
        # up to a batch less than all of them is cut off, and the share of validations
        assert plan.seconds >= 0.9 * 60 * minutes or plan.tokens > 0.99 * spent - plan.batch_tokens


def test_days_on_much_text_give_a_large_model_and_a_minute_on_little_a_small_one() -> None:
    _, little = turned("100 kB", minutes=1)
    _, default = turned("Tang", minutes=16)
    _, much = turned("10 GB", pace=Pace(((256, 5e13),)), minutes=4000)
    assert little.parameters < 2e6
    assert little.parameters <= default.parameters < much.parameters
    assert much.parameters > 2e8


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_faster_machine_never_gives_less(corpus: str) -> None:
    plans = [turned(corpus, pace=Pace(((256, rate),)), minutes=30)[1] for rate in (5e10, 2e11, 1e12, 2e13)]
    for slower, faster in pairwise(plans):
        assert faster.parameters >= slower.parameters
        assert expected(corpus, faster, law()) <= expected(corpus, slower, law())


def test_the_same_again_is_the_same() -> None:
    assert turned("Tang", minutes=16) == turned("Tang", minutes=16)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "mistral", "gpt2", "mixtral", "mamba2"])
@pytest.mark.parametrize("minutes", [2, 60, 3000])
def test_every_shape_can_be_built(architecture: str, minutes: float) -> None:
    found, _ = turned("250 MB", minutes=minutes, architecture=architecture, context=256)
    # `count` in `turned` has checked it; what the shape promises beyond that:
    inner = 2 * found.hidden_size if architecture == "mamba2" else found.hidden_size
    assert inner == 64 * found.heads
    for size in (found.hidden_size, found.feed_forward_size):
        assert size % 64 == 0
        assert size < 512 or size % 192 == 0 or size % 256 == 0
    assert found.hidden_size < 256 or found.hidden_size % 256 == 0
    assert found.steps >= 20


def test_rungs_lie_close_and_never_become_narrower() -> None:
    for vocabulary in (1024, 4096, 32_000):
        rungs = ladder(Pretrain(), vocabulary)
        for below, above in pairwise(rungs):
            assert above.count.multiplied >= 1.05 * below.count.multiplied
            assert above.count.total >= below.count.total
            assert above.parameters.hidden_size >= below.parameters.hidden_size
        # an exact count of one in the middle: depth is not extrapolated wrongly
        middle = rungs[len(rungs) // 2]
        assert count(middle.parameters, vocabulary) == middle.count
        assert rungs[0].count.total < 4e6
        assert rungs[-1].count.total > 1e9


@pytest.mark.parametrize("wanted", [1_500_000, 8_900_000, 30_000_000, 124_000_000, 350_000_000, 1_000_000_000])
def test_a_number_of_parameters_is_met(wanted: int) -> None:
    found, plan = turned("10 GB" if wanted > 3e7 else "Tang", parameters=wanted)
    assert plan.parameters == pytest.approx(wanted, rel=0.2)
    assert found.steps >= 20


def test_with_both_the_size_is_met_and_the_minutes_are_kept() -> None:
    _, short = turned("Tang", parameters=8_900_000, minutes=10)
    _, long = turned("Tang", parameters=8_900_000, minutes=20)
    assert short.parameters == long.parameters
    assert short.seconds is not None
    assert 8 * 60 < short.seconds <= 10 * 60
    assert long.tokens > 1.7 * short.tokens


def test_a_size_that_no_shape_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(InkwellError, match=r"pretrain\.dial\.parameters = 10,000.*parameters"):
        turned("10 GB", parameters=10_000)


def test_a_small_corpus_is_repeated_and_held_back_more() -> None:
    small, small_plan = turned("100 kB", minutes=10)
    large, large_plan = turned("250 MB", minutes=10)
    assert 4 > small_plan.epochs > 1.5 > 1 > large_plan.epochs
    assert small_plan.parameters < large_plan.parameters
    assert small.residual_dropout == large.residual_dropout == 0
    # by a law that expects more of repetition than our runs showed
    often, plan = turned("100 kB", trusted=PUBLISHED, minutes=10)
    assert plan.epochs > 10
    assert often.weight_decay >= 2 * large.weight_decay
    assert often.residual_dropout > 0


def test_the_batch_grows_with_the_work_and_stays_a_part_of_the_corpus() -> None:
    for corpus, (tokens, _, _) in CORPORA.items():
        plans = [turned(corpus, minutes=minutes)[1] for minutes in MINUTES]
        # at a turn, a larger model may see fewer tokens
        assert all(
            less.batch_tokens <= more.batch_tokens for less, more in pairwise(plans) if less.tokens <= more.tokens
        )
        assert plans[-1].batch_tokens <= max(256, tokens / 8)
    assert turned("10 GB", minutes=10_080)[1].batch_tokens > 4 * turned("10 GB", minutes=5)[1].batch_tokens


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_rates_follow_the_width(optimizer: str) -> None:
    batch = {
        "micro_batch": 16,
        "accumulation": 1,
    }  # a wider model sees fewer tokens, in smaller batches, at lower rates
    keep = ["hidden_size", *batch]
    narrow, _ = turned("Tang", optimizer=optimizer, minutes=16, keep=keep, hidden_size=128, **batch)
    wide, _ = turned("Tang", optimizer=optimizer, minutes=16, keep=keep, hidden_size=512, **batch)
    assert narrow.learning_rate == pytest.approx(4 * wide.learning_rate)
    assert narrow.matrix_learning_rate == wide.matrix_learning_rate
    assert narrow.embedding_learning_rate == wide.embedding_learning_rate


KEPT: dict[str, Any] = {
    "hidden_size": 320,
    "layers": 5,
    "heads": 32,
    "key_value_heads": 1,
    "feed_forward_size": 640,
    "tie_embeddings": True,
    "micro_batch": 3,
    "accumulation": 5,
    "steps": 333,
    "learning_rate": 0.0123,
    "matrix_learning_rate": 0.0345,
    "embedding_learning_rate": 0.0567,
    "weight_decay": 0.77,
    "residual_dropout": 0.05,
    "dropout": 0.02,
    "warmup_steps": 17,
    "decay_fraction": 0.21,
    "validation_every": 41,
    "validation_documents": 43,
    "sample_every": 47,
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_stays_and_the_rest_is_set(name: str) -> None:
    kept, _ = turned("250 MB", minutes=8000, keep=[name], **{name: KEPT[name]})
    assert getattr(kept, name) == KEPT[name]
    free, _ = turned("250 MB", minutes=8000, **{name: KEPT[name]})
    assert getattr(free, name) != KEPT[name]


def test_everything_can_be_kept() -> None:
    values = KEPT | {"heads": 5}
    kept, _ = turned("Tang", minutes=30, keep=list(values), **values)
    assert kept.model_dump(exclude={"dial"}) == Pretrain(**values).model_dump(exclude={"dial"})


def test_kept_steps_leave_the_minutes_as_they_are() -> None:
    for steps in (300, 3000):
        found, plan = turned("Tang", minutes=20, keep=["steps"], steps=steps)
        assert found.steps == steps
        assert plan.seconds is not None
        assert 0.6 * 20 * 60 < plan.seconds <= 20 * 60


def test_what_the_dial_does_not_decide_stays() -> None:
    written = Pretrain(
        dial={"minutes": 5},
        block=128,
        context=512,
        schedule="cosine",
        gradient_clip=0.3,
        ema_decay=0.99,
        architecture="llama",
    )
    found = turn(written, CorpusFacts(10**7, 10**5), 4096, LAPTOP, law())
    for name in ("block", "context", "schedule", "gradient_clip", "ema_decay", "architecture", "checkpoints", "dial"):
        assert getattr(found, name) == getattr(written, name)


def test_memory_bounds_the_model_and_the_micro_batch() -> None:
    _, large = turned("10 GB", pace=Pace(((256, 1e14),)), minutes=4000)
    held, small = turned("10 GB", pace=Pace(((256, 1e14),)), minutes=4000, memory_gib=6.0)
    assert large.peak_gib > 6 >= small.peak_gib
    assert small.parameters < large.parameters
    assert peak_gib(held, count(held, 32_000), 32_000, bf16=True) <= 6
    with pytest.raises(InkwellError, match=r"needs about .* GiB, and there are 0\.5"):
        turned("10 GB", minutes=10, memory_gib=0.5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"minutes": 0.001}, "pretrain.dial.minutes"),
        ({"minutes": 5, "keep": ["hiden_size"]}, "did you mean 'hidden_size'"),
        ({"minutes": 5, "keep": ["nonsense"]}, "pretrain.dial.keep"),
        (
            {"minutes": 5, "keep": ["micro_batch", "accumulation"], "micro_batch": 1000, "accumulation": 1000},
            "add text",
        ),
        ({"minutes": 5, "keep": ["heads", "hidden_size"], "heads": 3, "hidden_size": 256}, "pretrain.heads"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InkwellError, match=named.replace(".", r"\.")) as told:
        turned("Tang", **options)
    assert "\n" not in str(told.value)


def test_continued_weights_keep_their_shape_and_their_rates() -> None:
    written = Pretrain(
        dial={"minutes": 10}, initial="somewhere", hidden_size=576, layers=30, heads=9, key_value_heads=3,
        feed_forward_size=1536, learning_rate=1e-4, matrix_learning_rate=1e-3,
    )  # fmt: skip
    size = count(written, 8192)
    found = turn(written, CorpusFacts(10**7, 10**5), 8192, LAPTOP, law(), initial=size)
    for name in ("hidden_size", "layers", "heads", "feed_forward_size", "learning_rate", "matrix_learning_rate"):
        assert getattr(found, name) == getattr(written, name)
    assert found.steps != written.steps
    sized = written.model_copy(update={"dial": written.dial.model_copy(update={"parameters": 10**7})})
    with pytest.raises(InkwellError, match=r"pretrain\.initial"):
        turn(sized, CorpusFacts(10**7, 10**5), 8192, LAPTOP, law(), initial=size)
