"""How a machine's choices are made: what a person set stays, the rest is measured, and a run keeps what it began with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from components.configuration import Machine
from components.errors import InkwellError
from components.launch.processes import here, join_world
from components.machine import allocator, cache, calibration, cores, facts, hardware, precision
from components.machine.choices import Choices
from components.machine.compiling import achieved, choose_compile
from components.machine.cores import available_cores
from components.machine.devices import flash_refusal
from components.machine.hardware import decide
from components.machine.interference import Interference, interference
from components.training.optimizers import muon_and_adamw
from components.training.pinned import Division
from components.training.trial import StepTrial
from tests.tiny_models import sharp, tiny

LONG = 10**10  # tokens: a run that is worth calibrating


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "components.machine.interference.interference", lambda threads: Interference(threads, 1.0, 0.0, 0.0)
    )


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch, quiet: None) -> dict[torch.dtype, float]:
    """Rates of products that this machine, which nobody else uses, is made to have; float32's through oneDNN are the same."""
    known = {torch.bfloat16: 3e11, torch.float32: 1e11}
    monkeypatch.setattr(precision, "product_rate", lambda dtype, *_: known[dtype])
    monkeypatch.setattr("components.machine.allocator.gain", lambda: 2.0)
    return known


class Counting:
    """A trial that knows how often it was asked; two threads are twice as fast as one, all else is alike."""

    identity, operations, memory = "counting", 1e6, 0
    parts: Sequence[int] = (1, 2)
    attention: Sequence[str] = ("sdpa", "eager")
    fused = compiles = True

    def __init__(self, factor: float = 2.0) -> None:
        self.asked, self.factor = 0, factor

    def rate(self, choices: Choices, seconds: float, whole: bool = False) -> float:
        self.asked += 1
        return 1000.0 * (self.factor if choices.threads > 1 else 1.0)

    def release(self) -> None:
        pass


def _optimizers(model: Any) -> list[Any]:
    rates = {"matrix_learning_rate": 0.01, "embedding_learning_rate": 0.01, "learning_rate": 0.001}
    return list(muon_and_adamw(model, **rates, weight_decay=0.0))


def test_bf16_is_taken_where_it_multiplies_faster(rates: dict[torch.dtype, float], tmp_path: Path) -> None:
    assert decide(Machine(), 1, tmp_path).precision == "bf16"
    assert facts.choose_bf16("auto", "cpu")


@pytest.mark.parametrize("emulated", [2e9, 0.9e11, 1.1e11])
def test_bf16_is_never_taken_where_it_is_slower_or_hardly_faster(
    rates: dict[torch.dtype, float], tmp_path: Path, emulated: float, quiet: None
) -> None:
    rates[torch.bfloat16] = emulated

    class Tempting(Counting):
        """Steps in bf16 seem fast, which must not be found out: nothing is to be tried in emulated bf16."""

        def rate(self, choices: Choices, seconds: float, whole: bool = False) -> float:
            assert choices.precision == "fp32"
            return super().rate(choices, seconds, whole)

    assert decide(Machine(), LONG, tmp_path, Tempting()).precision == "fp32"
    assert not facts.choose_bf16("auto", "cpu")


def test_bf16_that_only_multiplies_faster_is_found_out(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None
) -> None:
    class Autocast(Counting):
        """What casting costs is more than products gain."""

        def rate(self, choices: Choices, seconds: float, whole: bool = False) -> float:
            return super().rate(choices, seconds, whole) * (0.8 if choices.precision == "bf16" else 1.0)

    choices = decide(Machine(), LONG, tmp_path, Autocast())
    assert choices.precision == "fp32"
    assert choices.measured["gain_precision"] == pytest.approx(1.25)


def test_what_a_person_set_stays(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rates[torch.bfloat16] = 1e9
    machine = Machine(precision="bf16", compile="off", fused="off", attention="eager", threads=1, micro_batch_parts=2)
    trial = Counting()
    choices = decide(machine, LONG, tmp_path, trial)
    assert choices.precision == "bf16"
    assert (choices.compile, choices.fused, choices.attention) == (False, "off", "eager")
    assert (choices.threads, choices.micro_batch_parts) == (1, 2)
    assert trial.asked == 1  # nothing is open: only how fast it is
    assert (
        "machine.precision = bf16: this processor multiplies bf16 0.01 x as fast as fp32; auto avoids it"
        in capsys.readouterr().out
    )


def test_open_choices_are_calibrated_once_a_machine(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("components.machine.cores.available_cores", lambda: 2)
    monkeypatch.setattr(hardware, "_worth_dividing", lambda *_: False)
    first, again, slower = Counting(), Counting(), Counting(factor=0.5)
    choices = decide(Machine(compile="off"), LONG, tmp_path / "a", first)
    assert (choices.threads, choices.precision, choices.tokens_per_second) == (2, "bf16", 2000.0)
    assert choices.measured["gain_threads"] == 2.0
    assert first.asked
    told = capsys.readouterr().out
    assert "threads 2 (2.00 x 1)" in told
    assert "2,000 tokens/s before compiling" in told
    assert decide(Machine(compile="off"), LONG, tmp_path / "b", again).threads == 2
    assert again.asked == 0
    assert "as calibrated before: " in capsys.readouterr().out
    other = Machine(compile="off", precision="fp32")  # another question: asked anew
    assert decide(other, LONG, tmp_path / "c", slower).threads == 1
    figures = choices.metrics()
    assert (figures["threads"], figures["bf16"], figures["gain_threads"]) == (2, 1, 2.0)
    assert all(isinstance(value, int | float) for value in figures.values())


def test_a_damaged_cache_is_measured_again(rates: dict[torch.dtype, float], tmp_path: Path, quiet: None) -> None:
    decide(Machine(), LONG, tmp_path / "a", Counting())
    files = list((tmp_path / "cache" / "calibration").iterdir())
    assert {file.name.split("-")[0] for file in files} == {"machine", "allocator", "choices"}
    for file in files:
        file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    again = Counting()
    assert decide(Machine(), LONG, tmp_path / "b", again).precision == "bf16"
    assert again.asked


@pytest.mark.parametrize(("machine", "tokens"), [(Machine(calibrate=False), LONG), (Machine(), 1000)])
def test_rules_decide_where_calibrating_is_off_or_would_not_pay(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None, machine: Machine, tokens: int
) -> None:
    trial = Counting()
    choices = decide(machine, tokens, tmp_path, trial)
    assert trial.asked == 0
    assert (choices.threads, choices.precision) == (available_cores(), "bf16")


def test_a_busy_machine_is_told_and_what_it_shows_is_not_remembered(
    rates: dict[torch.dtype, float], tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("components.machine.cores.available_cores", lambda: 4)
    monkeypatch.setattr(
        "components.machine.interference.interference", lambda threads: Interference(threads, 0.7, 1.1, 0.2)
    )
    trial = Counting()
    decide(Machine(compile="off"), LONG, tmp_path / "a", trial)
    assert "a process that wants 4 cores gets 70% of that (others use 1.1, the hypervisor takes 0.2)" in (
        capsys.readouterr().out
    )
    asked = trial.asked
    decide(Machine(compile="off"), LONG, tmp_path / "b", trial)
    assert trial.asked == 2 * asked


@pytest.mark.parametrize("shares", [(0.7,), (1.0, 0.7)])
def test_what_a_busy_machine_shows_of_itself_holds_for_this_process_only(
    rates: dict[torch.dtype, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...]
) -> None:
    """Busy when it begins to be measured, or busy when that ends."""
    monkeypatch.setattr(cache, "_passing", {})
    seen = iter(shares)
    with monkeypatch.context() as patch:
        patch.setattr(
            "components.machine.interference.interference", lambda threads: Interference(threads, next(seen), 1.1, 0.0)
        )
        rates[torch.bfloat16] = 1e9  # as it looks while others multiply
        assert decide(Machine(), 1, tmp_path / "a").precision == "fp32"
        assert list(seen) == []
        rates[torch.bfloat16] = 3e11
        assert decide(Machine(), 1, tmp_path / "b").precision == "fp32", "one process decides in one way"
    assert list((tmp_path / "cache").rglob("*.json")) == []
    assert allocator.remembered_gain() is None
    cache._passing.clear()  # the next process, when it is quiet
    assert decide(Machine(), 1, tmp_path / "c").precision == "bf16"
    kept = {file.name.split("-")[0] for file in (tmp_path / "cache" / "calibration").iterdir()}
    assert kept == {"machine", "allocator"}


def test_a_starved_machine_gets_fewer_threads_and_no_trial(
    rates: dict[torch.dtype, float], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("components.machine.cores.available_cores", lambda: 8)
    monkeypatch.setattr(
        "components.machine.interference.interference", lambda threads: Interference(threads, 0.4, 5.0, 0.0)
    )
    trial = Counting()
    assert decide(Machine(), LONG, tmp_path / "a", trial).threads == 3
    assert decide(Machine(threads=8), LONG, tmp_path / "b", trial).threads == 8
    assert trial.asked == 0


def test_a_copy_that_does_not_fit_into_memory_is_not_made(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    class Huge(Counting):
        memory = 2**60

    trial = Huge()
    decide(Machine(), LONG, tmp_path, trial)
    assert trial.asked == 0
    assert "would not fit into memory" in capsys.readouterr().out


def test_a_trial_has_the_room_of_one_process_or_of_its_card(monkeypatch: Any) -> None:
    trial = Counting()
    trial.memory = 3 * 2**30
    monkeypatch.setattr(hardware, "free_memory", lambda: 10 * 2**30)
    assert hardware._fits(trial, "cpu")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not hardware._fits(trial, "cpu")
    for card, fits in ((24, True), (7, False)):
        monkeypatch.setattr(hardware, "device_memory", lambda _, gib=card: gib * 2**30)
        assert hardware._fits(trial, "cuda") is fits, "the host's memory says nothing of a card"


def test_a_resumed_run_keeps_its_choices(rates: dict[torch.dtype, float], tmp_path: Path, quiet: None) -> None:
    trial = Counting()
    first = decide(Machine(), LONG, tmp_path / "run", trial)
    for file in (tmp_path / "cache" / "calibration").iterdir():
        file.unlink()
    rates[torch.bfloat16] = 1e9  # a busy moment
    asked = trial.asked
    assert decide(Machine(), LONG, tmp_path / "run", trial) == first
    assert trial.asked == asked
    assert decide(Machine(), LONG, tmp_path / "another").precision == "fp32"


def test_a_resumed_run_of_another_shape_teaches_nothing_of_the_first(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None
) -> None:
    class Other(Counting):
        identity = "another batch"

    first = decide(Machine(), LONG, tmp_path, Counting())
    again = decide(Machine(), LONG, tmp_path, Other())
    assert again == replace(first, identity={})
    assert achieved(again, 1.0) == {}


def test_a_resumed_run_follows_parameters_that_were_set_since(rates: dict[torch.dtype, float], tmp_path: Path) -> None:
    first = decide(Machine(), LONG, tmp_path)
    changed = decide(Machine(precision="fp32", threads=1), LONG, tmp_path)
    assert (changed.precision, changed.threads) == ("fp32", 1)
    assert decide(Machine(), LONG, tmp_path) == first


@pytest.mark.parametrize("damage", ["", "{}", '{"choices": {"device": "cpu", "threads": 1, "colour": "red"}}'])
def test_choices_that_cannot_be_read_are_made_anew(
    rates: dict[torch.dtype, float], tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = decide(Machine(), LONG, tmp_path)
    (tmp_path / "choices.json").write_text(damage, encoding="utf-8")
    assert decide(Machine(), LONG, tmp_path) == first
    assert "cannot be read" in capsys.readouterr().out


def test_choices_of_another_machine_are_made_anew(
    rates: dict[torch.dtype, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(Machine(), LONG, tmp_path)
    file = tmp_path / "choices.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    saved["surroundings"]["processor"] = "another"
    file.write_text(json.dumps(saved), encoding="utf-8")
    rates[torch.bfloat16] = 1e9
    for remembered in (tmp_path / "cache" / "calibration").iterdir():
        remembered.unlink()
    assert decide(Machine(), LONG, tmp_path).precision == "fp32"
    assert "began on another machine" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
@pytest.mark.parametrize(("allowed", "quota"), [(11, None), (16, 3), (8, None)])
def test_processes_that_leave_a_core_idle_are_on_the_machine_where_the_run_began(
    rates: dict[torch.dtype, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: int,
    quota: int | None,
) -> None:
    """Two of them have five cores each of eleven, and one each of a container's three."""
    held = {"cores": set(range(allowed))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: held["cores"])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, own: held.update(cores=set(own)))
    monkeypatch.setattr(cores, "_container_cores", lambda _: quota)
    for name, before in {"_sharing_cores": 1, "_sharing_time": 1, "_together": None}.items():
        monkeypatch.setattr(cores, name, before)
    decide(Machine(), 1, tmp_path)
    file = tmp_path / "choices.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    saved["choices"]["processes"] = 2  # as where they were measured to be faster
    file.write_text(json.dumps(saved), encoding="utf-8")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", lambda _: None)  # would end the tests with their parent
        join_world(here(), Machine())
    assert len(held["cores"]) == allowed // 2
    capsys.readouterr()
    assert decide(Machine(), 1, tmp_path).processes == 2
    assert "decided anew" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "gain", "taken"), [("auto", 2.25, True), ("auto", 1.15, False), ("on", 1.15, True), ("off", 2.25, False)]
)
def test_the_route_of_float32_products_is_told_with_its_gain_and_can_be_set(
    rates: dict[torch.dtype, float], tmp_path: Path, monkeypatch: Any, asked: str, gain: float, taken: bool
) -> None:
    monkeypatch.setattr(precision, "onednn_gain", lambda: gain)
    rates[torch.bfloat16] = 0.5e11
    choices = decide(Machine.model_validate({"onednn": asked}), 1, tmp_path)
    assert choices.float32_onednn is taken
    route = f"by oneDNN ({gain:.2f} x PyTorch's BLAS)" if taken else f"by PyTorch's BLAS (oneDNN {gain:.2f} x)"
    assert f"fp32, float32 products {route}, bf16 products 0.50 x as fast, eager" in str(choices)
    for changed in (True, False):  # of a run that is resumed too
        machine = Machine.model_validate({"onednn": changed})
        assert decide(machine, 1, tmp_path).float32_onednn is changed


def test_what_was_not_measured_is_not_told() -> None:
    assert str(Choices("cpu", 2, precision="bf16", measured={"gain_bf16_products": 3.0})) == "bf16, eager, 2 threads"
    assert str(Choices("cuda", 1, measured={"gain_bf16_products": 3.0})) == "fp32, eager, 1 thread, cuda"


def test_a_real_calibration_of_a_small_model(tmp_path: Path, quiet: None, monkeypatch: Any) -> None:
    monkeypatch.setattr("components.machine.calibration.SECONDS", 6.0)
    monkeypatch.setattr(hardware, "_worth_dividing", lambda *_: False)
    model = sharp(tiny("qwen3"))
    trial = StepTrial(model, _optimizers, micro_batch=4, accumulation=1, block=32)
    choices = decide(Machine(threads=1), LONG, tmp_path / "a", trial)
    assert choices.tokens_per_second > 0
    assert choices.measured["gain_allocator"] > 0
    if choices.measured["gain_bf16_products"] <= precision.WORTH:
        assert choices.precision == "fp32"
        assert "gain_precision" not in choices.measured, "steps in emulated bf16 were tried"
    else:
        won = choices.measured["gain_precision"]  # of what was taken, over the other
        assert choices.precision == "bf16" or won > calibration.WORTH, "bf16 was left for what was hardly faster"
    unused = partial(pytest.fail, "a remembered calibration was measured again")
    monkeypatch.setattr(StepTrial, "rate", lambda *_: unused())
    again = decide(Machine(threads=1), LONG, tmp_path / "b", trial)
    assert replace(again, measured={}) == replace(choices, measured={})
    for name in ("gain_precision", "gain_fused"):
        assert again.measured.get(name) == choices.measured.get(name)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"precision": "fp16"}, r"machine\.precision = 'fp16' needs machine\.device = cuda \(it is 'cpu' here\)"),
        ({"precision": "fp8"}, r"machine\.precision = 'fp8' needs machine\.device = cuda"),
        ({"attention": "flash"}, r"machine\.attention = 'flash' needs machine\.device = cuda"),
        ({"device": "cuda"}, r"machine\.device = 'cuda': PyTorch sees no such device here"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_in_a_sentence(
    tmp_path: Path, setting: dict[str, Any], sentence: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA card")
    with pytest.raises(InkwellError, match=sentence):
        decide(Machine(**setting), 1, tmp_path)
    assert not (tmp_path / "choices.json").exists()


def test_a_card_gets_the_precision_that_it_has(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert precision.accelerator_precision("cuda") == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert precision.accelerator_precision("cuda") == "fp16"


def test_fp8_needs_a_card_and_a_package_that_have_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(InkwellError, match=r"needs a CUDA card of compute capability 8\.9 or later"):
        precision.check_precision("fp8", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InkwellError, match=r"needs torchao: install it"):
        precision.check_precision("fp8", "cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    precision.check_precision("fp8", "cuda")


@pytest.mark.parametrize(
    ("device", "kind", "installed", "reason"),
    [
        ("cpu", "bf16", True, "needs machine.device = cuda"),
        ("cuda", "fp32", True, "works in bf16 and fp16"),
        ("cuda", "bf16", False, "needs the package flash-attn"),
        ("cuda", "bf16", True, None),
    ],
)
def test_flash_attention_is_refused_where_it_is_not(
    monkeypatch: Any, device: str, kind: str, installed: bool, reason: str | None
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    found = flash_refusal(device, kind)
    assert found is None if reason is None else (found or "").startswith(reason)


def test_attention_is_set_where_a_model_has_some() -> None:
    model, recurrent = sharp(tiny("qwen3")), sharp(tiny("mamba2"))
    for one in (model, recurrent):
        Choices("cpu", 1, attention="eager").prepare(one)
    assert model.config._attn_implementation == "eager"
    Choices("cpu", 1).prepare(model)
    assert model.config._attn_implementation == "sdpa"


def test_choices_are_set_for_the_process() -> None:
    threads, route = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        Choices("cpu", 2, float32_onednn=True).apply()
        assert torch.get_num_threads() == 2
        assert torch.get_float32_matmul_precision() == "medium"
        Choices("cpu", 1).apply()
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (1, "highest")
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(route)


def test_products_that_are_rounded_are_told_from_exact_ones(monkeypatch: Any) -> None:
    assert precision._exact()
    plain = torch.nn.functional.linear

    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return plain(left.bfloat16(), right.bfloat16()).float()

    monkeypatch.setattr(torch.nn.functional, "linear", rounded)
    assert not precision._exact()


@pytest.mark.parametrize(("exact", "routed", "gain"), [(True, 2e11, 2.0), (True, 0.5e11, 0.5), (False, 9e11, 0.0)])
def test_onednn_has_a_gain_where_it_is_exact(monkeypatch: Any, exact: bool, routed: float, gain: float) -> None:
    if not torch.backends.mkldnn.is_available() or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
        pytest.skip("oneDNN is not asked here")
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(precision, "_exact", lambda: exact)
    monkeypatch.setattr(
        precision, "product_rate", lambda dtype: routed if torch.get_float32_matmul_precision() == "medium" else 1e11
    )
    assert precision.onednn_gain() == gain
    assert torch.get_float32_matmul_precision() == before


def test_emulated_products_are_not_waited_for(monkeypatch: Any) -> None:
    sizes: list[int] = []
    now = 0.0

    def slow(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        nonlocal now
        sizes.append(len(left))
        now += len(left) ** 3 / 1e8  # 0.02 s at 128, 0.17 s at 256, 11 s at 1024
        return left

    monkeypatch.setattr(torch, "mm", slow)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert precision.product_rate(torch.bfloat16) == pytest.approx(2e8)
    assert max(sizes) == 256
    assert now < 0.5


@pytest.mark.parametrize(
    ("tokens", "rate", "gain", "wanted"),
    [
        (2_000_000, None, None, True),
        (400_000, None, None, False),
        (500_000, 2_000.0, None, True),  # 250 s, of which more than a quarter is won back
        (500_000, 20_000.0, None, False),
        (500_000, 2_000.0, 1.05, False),  # this machine has shown to win a twentieth
        (500_000, 2_000.0, 0.9, False),
    ],
)
def test_compiling_must_pay(
    monkeypatch: Any, tokens: int, rate: float | None, gain: float | None, wanted: bool
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    assert choose_compile("auto", tokens, rate, gain) is wanted
    assert choose_compile("on", tokens, rate, gain)
    assert not choose_compile("off", tokens, rate, gain)


def test_compiling_needs_a_compiler(monkeypatch: Any) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not choose_compile("auto", LONG)
    with pytest.raises(InkwellError, match=r"machine\.compile = 'on' needs a C\+\+ compiler"):
        choose_compile("on", LONG)


def test_what_runs_achieved_decides_about_compiling(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(hardware, "_worth_dividing", lambda *_: False)
    first = decide(Machine(), LONG, tmp_path / "a", Counting())
    assert first.compile
    assert achieved(first, 1800.0) == {"gain_compile": 0.9}  # the calibration had reached 2,000 without
    assert not decide(Machine(), LONG, tmp_path / "b", Counting()).compile
    assert achieved(Choices("cpu", 1), 1800.0) == {}  # a run without a trial has no identity


@pytest.mark.skipif(sys.platform != "linux", reason="processes are pinned on Linux only")
def test_a_divided_run_is_held_against_divided_steps(
    rates: dict[torch.dtype, float], tmp_path: Path, quiet: None, monkeypatch: Any
) -> None:
    """What dividing gains is not what compiling does."""
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr("components.machine.cores.available_cores", lambda: 2)
    monkeypatch.setattr(hardware, "available_cores", lambda: 2)
    monkeypatch.setattr("components.training.pinned.measure_processes", lambda *_: Division(2, 1.5, 1.0, 0.001))
    for name in ("a", "b"):  # measured, and as remembered
        found = decide(Machine(), LONG, tmp_path / name, Counting(), 2)
        assert (found.processes, found.threads, found.compile) == (2, 1, True)
        assert found.tokens_per_second == 1.5 * 2000
        assert found.metrics()["gain_processes"] == 1.5
    assert achieved(found, 3600.0) == {"gain_compile": 1.2}
    alone = decide(Machine(), LONG, tmp_path / "c", Counting(), 1)
    assert (alone.processes, alone.tokens_per_second) == (1, 2000.0), "there is no memory for two"
    assert achieved(alone, 3000.0) == {"gain_compile": 1.5}


def test_a_device_that_is_left_idle_is_told(
    rates: dict[torch.dtype, float], tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    decide(Machine(), 1, tmp_path / "a")
    assert "idle" not in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    decide(Machine(), 1, tmp_path / "b")
    assert "machine.device = cpu leaves a cuda device idle: auto would train on it" in capsys.readouterr().out


def test_what_the_allocator_gained_is_kept_for_the_next_start(
    rates: dict[torch.dtype, float], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("components.machine.allocator.gain", lambda: 0.8)
    decide(Machine(), 1, tmp_path)
    assert allocator.remembered_gain() == 0.8


def test_a_model_that_cannot_be_compiled_is_not(rates: dict[torch.dtype, float], tmp_path: Path, quiet: None) -> None:
    class Recurrent(Counting):
        compiles = False

    assert not decide(Machine(), LONG, tmp_path, Recurrent()).compile


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_a_container_s_share_of_the_cores_counts(tmp_path: Path, files: dict[str, str], wanted: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert cores._container_cores(tmp_path) == wanted


def test_interference_is_a_share_of_what_was_wanted() -> None:
    found = interference(1, seconds=0.2)
    assert 0 < found.share <= 1
    assert found.others >= 0
    assert found.stolen >= 0
    assert not Interference(2, 0.95, 0.1, 0.0).busy
    busy = Interference(2, 0.5, 1.04, 0.0)
    assert busy.busy
    assert str(busy) == "the machine is busy: a process that wants 2 cores gets 50% of that (others use 1.0)"


def test_a_busy_core_is_seen() -> None:
    """A second process on the same core leaves about half of it."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes cannot be bound to cores here")
    mine = os.sched_getaffinity(0)
    # as nice as this process, or as idle: a scheduling class is inherited
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(0, {min(mine)})
        os.sched_setaffinity(other.pid, {min(mine)})
        found = interference(1, seconds=2.0)
        assert found.share < 0.8
        assert found.busy
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, mine)


def test_on_and_off_may_be_written_bare() -> None:
    """YAML reads a bare on or off as a truth value."""
    machine = Machine.model_validate({"compile": False, "fused": True, "allocator": False, "onednn": True})
    assert (machine.compile, machine.fused, machine.allocator, machine.onednn) == ("off", "on", "off", "on")
