"""What is decided before the first step belongs to the model that is trained, whoever chose it: a person, the dial, other weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from components.configuration import Machine, Pretrain
from components.configuration import Tokenizer as TokenizerParameters
from components.configuration.training import Parallel
from components.corpus.packed import TokenShards
from components.errors import InkwellError
from components.launch.processes import Place
from components.machine.ceiling import Ceiling
from components.model.folders import load_model, load_tokenizer, save_model
from components.pretrain import beginning
from components.pretrain.beginning import Beginning, begin
from components.pretrain.data import CorpusSequences
from components.tokenizer.adopted import write_adopted
from components.training.bare_step import bare_step
from components.training.distributed import World
from components.training.recipe import prepare
from tests.byte_level import TEXTS

QUICK = Machine(threads=1, precision="fp32", compile="off")
ALONE = World(Place(), Parallel())
SMALL: dict[str, Any] = {"hidden_size": 64, "layers": 2, "heads": 1, "key_value_heads": 1, "feed_forward_size": 64}
SHORT: dict[str, Any] = {"block": 32, "context": 64, "micro_batch": 1}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))


def begun(parameters: Pretrain, tokens: Path, tokenizer: Path, work: Path, world: World = ALONE) -> Beginning:
    work.mkdir()
    train = TokenShards(tokens, "train")
    machine = QUICK.model_copy(update={"parallel": world.parallel})
    return begin(parameters, machine, train, load_tokenizer(tokenizer), work, 1, world)


def gib(monkeypatch: pytest.MonkeyPatch, found: float) -> None:
    """Let the machine have so much memory."""
    monkeypatch.setattr("components.machine.memory.available_memory", lambda: int(found * 2**30))


def test_what_is_measured_is_kept_for_the_shape_that_the_dial_chose(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Or a run of another length would be told the speed of another model."""
    sizes = [
        begun(
            Pretrain(dial={"parameters": size}, block=32, context=64),
            token_folder,
            tokenizer_folder,
            tmp_path / str(size),
        )
        for size in (180_000, 1_000_000)
    ]
    assert sizes[0].plan.parameters < sizes[1].plan.parameters
    assert all(one.parameters.hidden_size == one.model.config.hidden_size for one in sizes)
    written = Pretrain(hidden_size=64, layers=2, heads=1, key_value_heads=1, feed_forward_size=64, block=32, context=64)
    identities = [one.choices.identity.get("trial") for one in sizes]
    plain = begun(written, token_folder, tokenizer_folder, tmp_path / "plain").choices.identity.get("trial")
    assert len({str(one) for one in [*identities, plain]}) == 3


@pytest.mark.parametrize("dial", [{}, {"minutes": 0.5}])
def test_continued_weights_are_planned_as_they_are(
    dial: dict[str, float], token_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    written = Pretrain(
        initial=str(tiny_model), dial=dial, layers=8, block=32, context=64, micro_batch=1, learning_rate=1e-4
    )
    write_adopted(TEXTS, written, TokenizerParameters(), 1, tmp_path / "tokenizer")
    found = begun(written, token_folder, tmp_path / "tokenizer", tmp_path / "work")
    theirs = load_model(tiny_model)
    assert (found.parameters.layers, found.parameters.hidden_size) == (2, 256)
    assert "2 layers 256" in found.plan.shape
    assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in found.model.state_dict().items())
    assert found.parameters.learning_rate == 1e-4
    if dial:
        assert found.parameters.steps != written.steps
        assert found.plan.seconds is not None
        assert found.plan.seconds <= 30


def test_a_block_as_long_as_the_continued_model_allows_is_taken(
    token_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """`pretrain.context` is not theirs, and not asked."""
    written = Pretrain(initial=str(tiny_model), block=256, context=64, micro_batch=1, steps=2)
    write_adopted(TEXTS, written, TokenizerParameters(), 1, tmp_path / "tokenizer")
    found = begun(written, token_folder, tmp_path / "tokenizer", tmp_path / "work")
    assert found.parameters.block == 256


def test_a_family_without_attention_heads_is_planned_and_trained_further(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """transformers' Mamba has none of what a plan reads of others, and refuses to be told how to attend."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(2)
    config = MambaConfig(
        vocab_size=len(load_tokenizer(tokenizer_folder)), hidden_size=64, num_hidden_layers=2, state_size=8
    )
    save_model(MambaForCausalLM(config), tokenizer_folder, tmp_path / "theirs", card="# Mamba\n")
    written = Pretrain(initial=str(tmp_path / "theirs"), optimizer="adamw", learning_rate=3e-3, steps=20, **SHORT)
    write_adopted(TEXTS, written, TokenizerParameters(), 1, tmp_path / "tokenizer")
    found = begun(written, token_folder, tmp_path / "tokenizer", tmp_path / "work")
    assert type(found.model).__name__ == "MambaForCausalLM"
    assert "2 layers 64 wide" in found.plan.shape
    assert found.plan.operations == found.operations_per_token * found.plan.tokens, "no attention is counted"
    data = CorpusSequences(TokenShards(token_folder, "train"))
    training = prepare(found.parameters, found.model, data, 1, found.choices, ALONE)
    optimizers = training.make_optimizers(training.model)
    losses = [bare_step(training, optimizers, batch) for batch in training.loader]
    assert sum(losses[-5:]) < sum(losses[:5]) - 1


class Two(World):
    """The leader of two processes, of which the other multiplies half as fast."""

    def __init__(self) -> None:
        super().__init__(Place(size=2, local_size=2), Parallel(processes=2))

    def gather(self, value: Any) -> list[Any]:
        return [value, value / 2]


def test_speed_is_held_against_the_products_of_all_processes(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens a second are those of all of them."""
    monkeypatch.setattr(beginning, "gemm_ceiling", lambda *_, **__: Ceiling(1e9, 1e9, 0.0, (1, 1, 1), {}))
    parameters = Pretrain(**SMALL, **SHORT, steps=7)
    alone = begun(parameters, token_folder, tokenizer_folder, tmp_path / "alone")
    together = begun(parameters, token_folder, tokenizer_folder, tmp_path / "together", Two())
    rate = 1e8 / alone.operations_per_token  # a tenth of the ceiling of one
    assert alone.figures(rate)["gemm_operations_per_second"] == 1e9
    assert alone.figures(rate)["model_flops_utilisation"] == 0.1
    assert alone.speed(rate) == (
        f"speed: 0.0001 TFLOP/s ({rate:,.0f} tokens/s), 10% of what matrix products reach here (0.001)"
    )
    assert together.figures(rate)["gemm_operations_per_second"] == 1.5e9
    assert together.figures(rate)["model_flops_utilisation"] == pytest.approx(0.1 / 1.5, abs=1e-4)
    assert together.figures(rate)["operations_per_second"] == alone.figures(rate)["operations_per_second"]


def test_a_model_that_cannot_fit_is_refused_before_it_is_made(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib(monkeypatch, 8)
    monkeypatch.setattr(beginning, "_model", lambda *_: pytest.fail("it was made"))
    tinyllama: dict[str, Any] = {
        "hidden_size": 2048,
        "layers": 22,
        "heads": 32,
        "key_value_heads": 4,
        "feed_forward_size": 5632,
    }
    with pytest.raises(InkwellError, match=r"97\d M parameters needs 10\.9 GiB .* alone, and there are 8\.0"):
        begun(Pretrain(**tinyllama, **SHORT), token_folder, tokenizer_folder, tmp_path / "work")


def test_a_model_that_may_not_fit_is_trained_with_a_word_and_without_being_timed(
    token_folder: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(beginning, "_WORTH_TIMING", 0.0)
    parameters = Pretrain(**SMALL, **SHORT, steps=7)
    assert begun(parameters, token_folder, tokenizer_folder, tmp_path / "timed").plan.seconds is not None
    assert "should it be ended" not in capsys.readouterr().out
    gib(monkeypatch, 0.5)  # less than Python with its libraries takes
    assert begun(parameters, token_folder, tokenizer_folder, tmp_path / "work").plan.seconds is None
    assert "GiB, and there are 0.5: should it be ended for want of memory" in capsys.readouterr().out


def test_the_dial_counts_on_each_process_s_share_of_the_memory(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib(monkeypatch, 3)
    parameters = Pretrain(dial={"parameters": 180_000}, block=32, context=64)
    four = Place(size=4, local_size=4)
    with pytest.raises(InkwellError, match=r"training needs about .* GiB, and there are 0\.6"):
        begun(parameters, token_folder, tokenizer_folder, tmp_path / "ddp", World(four, Parallel()))
    for name, world in {"alone": ALONE, "fsdp2": World(four, Parallel(strategy="fsdp2"))}.items():
        found = begun(parameters, token_folder, tokenizer_folder, tmp_path / name, world)
        assert found.plan.parameters == pytest.approx(180_000, rel=0.3)


def test_what_several_hold_together_one_times_as_far_as_it_has_room(
    token_folder: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four machines have the memory for the model and its optimizer, the one that measures has a quarter of it."""
    monkeypatch.setattr(beginning, "_WORTH_TIMING", 0.0)
    sharded = World(Place(size=4), Parallel(strategy="fsdp2"))
    gib(monkeypatch, 0.9)
    deep = Pretrain(layers=16, **SHORT, steps=7)  # 0.97 GiB
    found = begun(deep, token_folder, tokenizer_folder, tmp_path / "deep", sharded)
    assert found.model.config.num_hidden_layers == 16
    assert found.plan.seconds is not None
    assert "timing a few steps of 8 layers, 256 wide" in capsys.readouterr().out
    gib(monkeypatch, 0.5)  # too little for any step
    monkeypatch.setattr(beginning, "step_timer", lambda *_, **__: lambda shape: pytest.fail("it was timed"))
    parameters = Pretrain(**SMALL, **SHORT, steps=7)
    assert begun(parameters, token_folder, tokenizer_folder, tmp_path / "none", sharded).plan.seconds is None


@pytest.mark.parametrize("parallel", [Parallel(pipeline=2), Parallel(strategy="fsdp2", tensor=2)])
def test_minutes_are_refused_where_processes_share_rows_or_layers(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: Parallel
) -> None:
    """One process was timed: a plan for as many as there are replicas would use half of the minutes."""
    monkeypatch.setattr(beginning, "_WORTH_TIMING", 0.0)
    shared = World(Place(size=2, local_size=2), parallel)
    dialled = Pretrain(dial={"minutes": 0.2}, block=32, context=64)
    with pytest.raises(
        InkwellError, match=r"pretrain\.dial\.minutes: .* is not measured: set pretrain\.dial\.parameters"
    ):
        begun(dialled, token_folder, tokenizer_folder, tmp_path / "minutes", shared)
    steps = Pretrain(**SMALL, **SHORT, steps=7)
    assert begun(steps, token_folder, tokenizer_folder, tmp_path / "steps", shared).plan.seconds is None
    # a run that was planned for one process may go on in two that share its layers
    planned = begun(dialled, token_folder, tokenizer_folder, tmp_path / "alone").parameters
    machine, train = QUICK.model_copy(update={"parallel": parallel}), TokenShards(token_folder, "train")
    tokenizer = load_tokenizer(tokenizer_folder)
    assert begin(dialled, machine, train, tokenizer, tmp_path / "alone", 1, shared).parameters == planned


def test_passes_that_teach_nothing_more_are_told_with_the_steps_that_do(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = TokenShards(token_folder, "train").tokens

    def told(steps: int, name: str) -> str:
        begun(Pretrain(**SMALL, **SHORT, steps=steps), token_folder, tokenizer_folder, tmp_path / name)
        return capsys.readouterr().out

    words = told(10 * tokens // 32, "many")
    found = re.search(r"10\.0 passes over this corpus, .* set pretrain\.steps=(\d+), or let size=auto plan", words)
    assert found is not None, words
    assert tokens < 32 * int(found[1]) < 10 * tokens
    assert "passes over this corpus, and" not in told(int(found[1]), "few")


@pytest.mark.parametrize("dial", [{}, {"parameters": 180_000, "keep": ["accumulation"]}])
def test_a_batch_that_cannot_grow_is_refused(
    dial: dict[str, Any], token_folder: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    written: dict[str, Any] = {**SMALL, **SHORT, "dial": dial, "batch_ramp": 0.3, "steps": 30}
    with pytest.raises(InkwellError, match=r"pretrain\.batch_ramp = 0\.3: .* pretrain\.accumulation, which is 1"):
        begun(Pretrain(**written), token_folder, tokenizer_folder, tmp_path / "work")
    grows = Pretrain(**written | {"dial": {}, "accumulation": 3})
    assert begun(grows, token_folder, tokenizer_folder, tmp_path / "grows").parameters == grows
