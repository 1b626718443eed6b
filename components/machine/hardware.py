"""What the machine at hand does well: measured, not looked up by name.

`decide` gives a run its choices. What a person has set stays; what is open follows from products that are timed here and,
for runs that are long enough, from a short calibration on training steps (`components.machine.calibration`). CUDA and MPS: untested
on this hardware.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_file
from components.machine import precision as formats
from components.machine.choices import CALIBRATED, Choices
from components.machine.compiling import choose_compile, compiles
from components.machine.cores import available_cores, choose_threads, cores_together
from components.machine.devices import check, choose_device, flash_refusal, fused_modules
from components.machine.facts import best_precision, machine_facts
from components.machine.memory import device_memory, free_memory

if TYPE_CHECKING:
    from components.configuration import Machine
    from components.machine.calibration import Calibration, Trial

_FILE = "choices.json"
_SHARE = 0.05  # of a run's expected time that calibrating it may take
_SHORTEST = 1.0  # seconds: a calibration that had less would find nothing
_STARVED = 0.5  # share of the wanted cores below which threads wait for each other, and timings take for ever
_MEMORY = 0.4  # share of the free memory that a trial's copy of the model may take
_EXPECTED = 0.25  # share of the products' rate that eager training reaches: only to foresee how long a run is
_CARD_RATE = 1e13  # operations a second of an accelerator, for the same purpose
_PROCESSES_FROM = 600.0  # seconds that a run must be expected to take for its processes to be measured
_PROCESSES_WORTH = 1.1
_FACTS = {"onednn": "float32_onednn", "bf16": "bf16_products", "allocator": "allocator"}  # names of their gains


def decide(machine: Machine, tokens: int, work: Path, trial: Trial | None = None, room: int | None = None) -> Choices:
    """The choices of a run over `tokens` tokens, made once and kept in `work`; told in a line or two where they are new.

    A resumed run follows what the first process measured: bf16 that turned into fp32 because the machine was busy for a
    moment would be a seam in the curve. Parameters that were changed in between are followed, and on another machine all
    is decided anew. With a `trial`, and `machine.calibrate`, what is open is calibrated; without one rules decide.
    room: processes that there is memory for, None where that is not known. Raises InkwellError for what the machine cannot do.
    """
    device = choose_device(machine.device)
    check(machine, device)
    path = work / _FILE
    saved = _saved(path)
    if saved is not None and saved.device == device and _is_for_these_processes(saved, machine):
        if trial is not None and saved.identity.get("trial") != trial.identity:
            # measured for another shape or batch, of which the rate of this run says nothing
            saved = replace(saved, identity={})
        return replace(saved, **_given(machine))
    choices = _decided(machine, tokens, device, trial, room)
    with atomic_file(path) as temporary:
        described = {"surroundings": _surroundings(), "choices": asdict(choices)}
        temporary.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return choices


def _is_for_these_processes(saved: Choices, machine: Machine) -> bool:
    """Whether there are as many processes as it is for, or as many can be started: none are yet, and no number is set."""
    from components.launch.processes import here

    size = here().size
    return saved.processes == size or (size == 1 and machine.parallel.processes is None)


def _saved(path: Path) -> Choices | None:
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        choices = Choices(**saved["choices"])
        same = saved["surroundings"] == _surroundings()
    except (OSError, ValueError, LookupError, TypeError):
        print(f"  {path} cannot be read: how the machine is used is decided anew", flush=True)
        return None
    if not same:
        print("  this run began on another machine or with other cores: how it is used is decided anew", flush=True)
        return None
    return choices


def _surroundings() -> dict[str, Any]:
    """What a run's choices hold for; libraries and the allocator may change under it. `cores`: of all its processes here."""
    from components.machine.cache import machine_identity

    known = machine_identity()
    return {"processor": known["processor"], "cores": cores_together(), "accelerators": known["accelerators"]}


def _given(machine: Machine) -> dict[str, Any]:
    """Choices that a person has made, by the name of their field."""
    found: dict[str, Any] = {}
    if machine.threads:
        found["threads"] = machine.threads
    if machine.precision != "auto":
        found["precision"] = machine.precision
    if machine.compile != "auto":
        found["compile"] = machine.compile == "on"
    if (fused := fused_modules(machine)) != "auto":
        found["fused"] = fused
    if machine.attention != "auto":
        found["attention"] = machine.attention
    if machine.onednn != "auto":
        found["float32_onednn"] = machine.onednn == "on"
    if machine.micro_batch_parts:
        found["micro_batch_parts"] = machine.micro_batch_parts
    return found


def by_rules(machine: Machine, tokens: int, rate: float) -> Choices:
    """The choices of a run over `tokens` tokens at about `rate` a second, before there is a model to measure them on.

    Kept nowhere: `decide` is asked once the model is known. Raises InkwellError for what the machine cannot do.
    """
    device = choose_device(machine.device)
    check(machine, device)
    choices = _ruled(machine, device, machine_facts(device))
    return replace(choices, compile=choose_compile(machine.compile, tokens, rate))


def _decided(machine: Machine, tokens: int, device: str, trial: Trial | None, room: int | None) -> Choices:
    fastest = choose_device("auto")
    if device == "cpu" != fastest:
        print(
            f"  machine.device = cpu leaves a {fastest} device idle: auto would train on it (untested on this hardware)",
            flush=True,
        )
    facts = machine_facts(device)
    choices = _ruled(machine, device, facts)
    if device == "cpu" and choices.precision == "bf16" != best_precision(device, facts):
        print(
            f"  machine.precision = bf16: this processor multiplies bf16 {facts['bf16']:.2f} x as fast as fp32; auto avoids it"
        )
    if trial is not None and machine.calibrate and device != "mps":
        choices = _calibrated(machine, choices, tokens, facts, trial, room)
    wanted = "off" if machine.compile == "auto" and trial is not None and not trial.compiles else machine.compile
    return replace(choices, compile=compiles(wanted, tokens, choices))


def _ruled(machine: Machine, device: str, facts: Mapping[str, float]) -> Choices:
    """What a person has set, and what follows from the machine alone, of which `facts` tell."""
    from components.launch.processes import here
    from components.machine.allocator import in_use

    chosen: dict[str, Any] = {
        "threads": choose_threads(machine.threads),
        "precision": best_precision(device, facts),
        "float32_onednn": facts.get("onednn", 0.0) > formats.WORTH,
        **_given(machine),
    }
    return Choices(
        device,
        processes=here().size,
        muon_bf16=formats.has_bf16(device),
        allocator=in_use(),
        measured={f"gain_{_FACTS[name]}": facts[name] for name in _FACTS if facts.get(name)},
        **chosen,
    )


def _calibrated(
    machine: Machine, start: Choices, tokens: int, facts: Mapping[str, Any], trial: Trial, room: int | None
) -> Choices:
    """`start` with what is open measured, or as remembered from an earlier run of the same model on this machine."""
    from components.machine import calibration
    from components.machine.cache import machine_identity, recall, remember

    asked = machine.model_dump(mode="json", exclude={"calibrate", "compile", "parallel"})
    cores = available_cores()  # more than one process a core is never tried
    parallel = {
        "asked": machine.parallel.processes,
        "here": start.processes,
        "room": cores if room is None else min(room, cores),
    }
    identity = {**machine_identity(), "asked": asked, "processes": parallel, "trial": trial.identity}
    start = replace(start, identity=identity)
    expected = tokens * trial.operations / (_EXPECTED * facts.get("rate", _CARD_RATE))
    seconds = min(calibration.SECONDS, _SHARE * expected)
    if seconds < _SHORTEST:
        return start
    known = recall("choices", identity)
    if known is not None:
        try:
            choices = replace(start, **known["chosen"], tokens_per_second=float(known["rate"]))
            choices = replace(choices, measured={**start.measured, **known["measured"]})
            print(f"  as calibrated before: {known['words']}", flush=True)
            return choices
        except (LookupError, TypeError, ValueError):
            pass  # another version of this module wrote it
    if not _fits(trial, start.device):
        print("  no calibration: a second copy of the model would not fit into memory beside the run; rules decide")
        return start
    from components.machine.interference import interference

    state = interference(start.threads)
    if state.share < _STARVED:
        fewer = start.threads if machine.threads else max(1, round(state.share * start.threads))
        print(
            f"  {state}: too little to calibrate with, rules decide, {fewer} thread{'' if fewer == 1 else 's'}",
            flush=True,
        )
        return replace(start, threads=fewer)
    if state.busy:
        print(f"  {state}; what is measured now is used for this run and not remembered", flush=True)
    began = time.perf_counter()
    # eager steps say little about which modules, or how many rows at once, are faster once they are compiled
    compiled = compiles(machine.compile, tokens, start)
    try:
        found = calibration.calibrate(
            start,
            _candidates(machine, start, trial, state.busy),
            trial,
            seconds,
            only_measured=("fused", "micro_batch_parts") if compiled else (),
        )
    finally:
        trial.release()
    measured = {f"gain_{name}": value for name, value in found.gains().items()}
    words = found.words()
    if start.allocator in ("glibc", "off") and facts.get("allocator"):
        kept = "keeps large blocks" if start.allocator == "glibc" else "is left as it is"
        words.append(f"glibc {kept} (keeping them: {facts['allocator']:.1f} x where memory is fresh)")
    best, rate = found.choices, found.rate
    if _worth_dividing(machine, found, tokens, room):
        best, more, said = _divided(found, trial, room)
        measured |= more
        words += said
        rate *= more["gain_processes"] if best.processes > 1 else 1.0
    measured["calibration_seconds"] = time.perf_counter() - began
    text = "; ".join([*words, f"{rate:,.0f} tokens/s before compiling"])
    print(f"  calibrated in {measured['calibration_seconds']:.0f} s: {text}", flush=True)
    if (found.complete or seconds >= calibration.SECONDS) and not state.busy:
        chosen = {name: getattr(best, name) for name in (*CALIBRATED, "processes")}
        figures = {name: value for name, value in measured.items() if name != "calibration_seconds"}
        remember("choices", identity, {"chosen": chosen, "rate": rate, "measured": figures, "words": text})
    return replace(best, tokens_per_second=rate, measured={**start.measured, **measured})


def _fits(trial: Trial, device: str) -> bool:
    """Whether the whole model, which is tried in one process, fits in beside the run: on its card, or into its share of the host."""
    from components.launch.processes import here

    room = device_memory(device) if device == "cuda" else free_memory() / here().local_size
    return trial.memory <= _MEMORY * room


def _candidates(machine: Machine, start: Choices, trial: Trial, busy: bool) -> dict[str, Sequence[Any]]:
    """Values to try beside those of `start`, for choices that are open."""
    found: dict[str, Sequence[Any]] = {}
    if machine.precision == "auto" and start.device == "cpu" and start.precision == "bf16":
        found["precision"] = ("fp32",)
    if machine.threads is None and start.device == "cpu":
        found["threads"] = _thread_counts(start.threads, busy)
    if machine.fused == "auto" and start.fused == "auto" and trial.fused:
        found["fused"] = ("off",)
    if machine.attention == "auto" and not trial.fused:
        flash = ("flash",) if flash_refusal(start.device, start.precision) is None else ()
        found["attention"] = tuple(name for name in (*flash, "eager") if name in (*flash, *trial.attention))
    if machine.micro_batch_parts is None and start.device == "cpu":
        found["micro_batch_parts"] = tuple(parts for parts in trial.parts if parts > 1)
    return {name: values for name, values in found.items() if values}


def _thread_counts(most: int, busy: bool) -> tuple[int, ...]:
    """Fewer threads than `most`, the likeliest first: one a real core, one less on a busy machine, half, one."""
    import psutil

    real = psutil.cpu_count(logical=False) or most
    wanted = [min(real, most), *([most - 1] if busy else []), most // 2, *([1] if most <= 4 else [])]
    return tuple(dict.fromkeys(count for count in wanted if 0 < count < most))


def _worth_dividing(machine: Machine, found: Calibration, tokens: int, room: int | None) -> bool:
    parallel = machine.parallel
    return (
        found.choices.device == "cpu"
        and parallel.processes is None
        and found.choices.processes == parallel.nodes == parallel.tensor == parallel.pipeline == 1
        and parallel.launcher in ("auto", "self")
        and machine.threads is None
        and available_cores() > 1
        and (room is None or room > 1)
        and sys.platform == "linux"
        and tokens / found.rate > _PROCESSES_FROM
    )


def _divided(found: Calibration, trial: Trial, room: int | None) -> tuple[Choices, dict[str, float], list[str]]:
    """The choices with as many processes as train fastest, a share of the cores each; figures, and words for people."""
    from components.training.pinned import measure_processes

    division = measure_processes(trial, found.choices, found.rate, room)
    if division is None:
        return found.choices, {}, []
    words = []
    if division.slowest_core < 0.8:
        words.append(f"the cores are unequal: the slowest multiplies at {division.slowest_core:.0%} of the fastest")
    figures = {"gain_processes": division.gain, "slowest_core": division.slowest_core}
    worth = division.gain > _PROCESSES_WORTH
    words.append(f"processes {division.processes if worth else 1} ({division.processes}: {division.gain:.2f} x 1)")
    if not worth:
        return found.choices, figures, words
    threads = max(1, available_cores() // division.processes)
    return replace(found.choices, processes=division.processes, threads=threads), figures, words
