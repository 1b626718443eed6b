"""What the machine at hand does well: measured, not looked up by name.

`decide` gives a run its choices. What a person has set stays; what is open follows from products that are timed here and,
for runs that are long enough, from a short calibration on training steps (`components.machine.calibration`). CUDA and MPS: untested
on this hardware.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_file
from components.errors import InkwellError
from components.machine import precision as formats
from components.machine.choices import Choices
from components.machine.cores import available_cores, choose_threads, cores_together
from components.machine.memory import device_memory, free_memory

if TYPE_CHECKING:
    from components.configuration import Machine
    from components.machine.calibration import Calibration, Trial

__all__ = [
    "Choices",
    "achieved",
    "available_cores",
    "by_rules",
    "check",
    "choose_bf16",
    "choose_compile",
    "choose_device",
    "choose_threads",
    "decide",
    "fused_modules",
]

_FILE = "choices.json"
_SHARE = 0.05  # of a run's expected time that calibrating it may take
_SHORTEST = 1.0  # seconds: a calibration that had less would find nothing
_STARVED = 0.5  # share of the wanted cores below which threads wait for each other, and timings take for ever
_MEMORY = 0.4  # share of the free memory that a trial's copy of the model may take
_EXPECTED = 0.25  # share of the products' rate that eager training reaches: only to foresee how long a run is
_CARD_RATE = 1e13  # operations a second of an accelerator, for the same purpose
_COMPILED_GAIN, _COMPILE_SECONDS = 1.4, 15.0  # before a machine has shown its own gain
_COMPILED_TOKENS = 500_000  # where the rate is not known
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
    known = _here()
    return {"processor": known["processor"], "cores": cores_together(), "accelerators": known["accelerators"]}


def _here() -> dict[str, Any]:
    from components.machine.cache import machine_identity

    return machine_identity()


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
    choices = _ruled(machine, device, _facts(device))
    return replace(choices, compile=choose_compile(machine.compile, tokens, rate))


def _decided(machine: Machine, tokens: int, device: str, trial: Trial | None, room: int | None) -> Choices:
    fastest = choose_device("auto")
    if device == "cpu" != fastest:
        print(
            f"  machine.device = cpu leaves a {fastest} device idle: auto would train on it (untested on this hardware)",
            flush=True,
        )
    facts = _facts(device)
    choices = _ruled(machine, device, facts)
    if device == "cpu" and choices.precision == "bf16" != _precision(device, facts):
        print(
            f"  machine.precision = bf16: this processor multiplies bf16 {facts['bf16']:.2f} x as fast as fp32; auto avoids it"
        )
    if trial is not None and machine.calibrate and device != "mps":
        choices = _calibrated(machine, choices, tokens, facts, trial, room)
    wanted = "off" if machine.compile == "auto" and trial is not None and not trial.compiles else machine.compile
    return replace(choices, compile=_compiles(wanted, tokens, choices))


def _ruled(machine: Machine, device: str, facts: Mapping[str, float]) -> Choices:
    """What a person has set, and what follows from the machine alone, of which `facts` tell."""
    from components.launch.processes import here
    from components.machine.allocator import in_use

    chosen: dict[str, Any] = {
        "threads": choose_threads(machine.threads),
        "precision": _precision(device, facts),
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


def _precision(device: str, facts: Mapping[str, float]) -> str:
    """The one that pays: on processors as measured, elsewhere as the kind of device has it."""
    if device != "cpu":
        return formats.accelerator_precision(device)
    return "bf16" if facts["bf16"] > formats.WORTH else "fp32"


def _facts(device: str) -> dict[str, float]:
    """What does not depend on the model, measured once a machine; two or three seconds. Nothing for other devices than processors.

    onednn, bf16: gains of products, see `components.machine.precision`; rate: operations a second of those that pay; allocator: the
    gain where memory is fresh, see `components.machine.allocator`, 0 where there is none. What is measured while others keep the
    machine busy is used by this process and measured anew by the next.
    """
    if device != "cpu":
        return {}
    import torch

    from components.machine.allocator import gain, remember_gain
    from components.machine.cache import recall, remember
    from components.machine.interference import interference

    identity = _here()
    known = recall("machine", identity) or {}
    if all(isinstance(known.get(name), int | float) for name in ("onednn", "bf16", "rate", "allocator")):
        return known
    busy = interference(available_cores()).busy
    onednn = formats.onednn_gain()
    bf16 = formats.bf16_gain(onednn > formats.WORTH)
    with formats.float32_by_onednn(onednn > formats.WORTH):
        rate = formats.product_rate(torch.bfloat16 if bf16 > formats.WORTH else torch.float32)
    found = {"onednn": onednn, "bf16": bf16, "rate": rate, "allocator": gain() or 0.0}
    busy = busy or interference(available_cores()).busy  # it may have begun meanwhile
    remember("machine", identity, found, lasting=not busy)
    if not busy:
        remember_gain(found["allocator"])
    return found


def _calibrated(
    machine: Machine, start: Choices, tokens: int, facts: Mapping[str, Any], trial: Trial, room: int | None
) -> Choices:
    """`start` with what is open measured, or as remembered from an earlier run of the same model on this machine."""
    from components.machine import calibration
    from components.machine.cache import recall, remember

    asked = machine.model_dump(mode="json", exclude={"calibrate", "compile", "parallel"})
    cores = available_cores()  # more than one process a core is never tried
    parallel = {
        "asked": machine.parallel.processes,
        "here": start.processes,
        "room": cores if room is None else min(room, cores),
    }
    identity = {**_here(), "asked": asked, "processes": parallel, "trial": trial.identity}
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
    compiled = _compiles(machine.compile, tokens, start)
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
        chosen = {name: getattr(best, name) for name in (*_CALIBRATED, "processes")}
        figures = {name: value for name, value in measured.items() if name != "calibration_seconds"}
        remember("choices", identity, {"chosen": chosen, "rate": rate, "measured": figures, "words": text})
    return replace(best, tokens_per_second=rate, measured={**start.measured, **measured})


_CALIBRATED = ("precision", "threads", "fused", "attention", "micro_batch_parts")


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
        flash = ("flash",) if _flash_refusal(start.device, start.precision) is None else ()
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


def achieved(choices: Choices, tokens_per_second: float) -> dict[str, float]:
    """Remember the rate that a whole run reached; the gain of compiling where it is known, for the run's metrics.

    The next run of this model on this machine decides about compiling by it.
    """
    from components.machine.cache import learn

    if not choices.identity or not tokens_per_second:
        return {}
    gain = learn(
        _compile_identity(choices),
        compiled=choices.compile,
        rate=tokens_per_second,
        calibrated=choices.tokens_per_second or None,
    )
    return {"gain_compile": round(gain, 4)} if gain else {}


def _compile_identity(choices: Choices) -> dict[str, Any]:
    return {**choices.identity, "chosen": {name: getattr(choices, name) for name in (*_CALIBRATED, "processes")}}


def _compiles(wanted: str, tokens: int, choices: Choices) -> bool:
    from components.machine.cache import learnt_compile_gain

    gain = learnt_compile_gain(_compile_identity(choices)) if choices.identity else None
    return choose_compile(wanted, tokens, choices.tokens_per_second or None, gain)


def choose_compile(wanted: str, tokens: int, rate: float | None = None, gain: float | None = None) -> bool:
    """Whether to use torch.compile: as asked, else where a C++ compiler is found and the run wins the time back.

    rate: tokens a second of eager steps; gain: how many times as fast compiled ones were on this machine. Where nothing
    is known, half a million tokens are enough: compiling costs about ten seconds on two cores, a few once they are cached.
    """
    compiler = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    if wanted == "on" and compiler is None:
        raise InkwellError("machine.compile = 'on' needs a C++ compiler (g++ or clang++): install one or use auto.")
    if wanted != "auto":
        return wanted == "on"
    if compiler is None:
        return False
    if rate is None:
        return tokens >= _COMPILED_TOKENS
    return tokens / rate * (1 - 1 / (gain or _COMPILED_GAIN)) > _COMPILE_SECONDS


def check(machine: Machine, device: str) -> None:
    """Raise InkwellError where `machine` asks for what `device` does not have, or for two things that exclude each other."""
    formats.check_precision(machine.precision, device)
    fused_modules(machine)
    if machine.attention == "flash":
        precision = machine.precision if machine.precision != "auto" else None
        reason = _flash_refusal(device, precision or (formats.accelerator_precision(device) if device != "cpu" else ""))
        if reason:
            raise InkwellError(f"machine.attention = 'flash' {reason}: use sdpa or auto.")


def fused_modules(machine: Machine) -> str:
    """`machine.fused`; off where it is open and something is asked for that only the model's own modules have.

    Raises InkwellError where it is on even so: fused modules attend in their own way, and modules of float8 are the stock
    ones in another dress, which fused ones would go past.
    """
    asked = f"machine.attention = {machine.attention!r}" if machine.attention != "auto" else ""
    asked = "machine.precision = 'fp8'" if machine.precision == "fp8" else asked
    if asked and machine.fused == "on":
        raise InkwellError(f"machine.fused = 'on': {asked} is for the model's own modules; set machine.fused to auto.")
    return "off" if asked else machine.fused


def _flash_refusal(device: str, precision: str) -> str | None:
    if device != "cuda":
        return f"needs machine.device = cuda (it is {device!r} here)"
    if precision not in ("bf16", "fp16"):
        return f"works in bf16 and fp16 (machine.precision is {precision!r} here)"
    if importlib.util.find_spec("flash_attn") is None:
        return "needs the package flash-attn, which is not installed"
    return None


def choose_device(wanted: str) -> str:
    """ "cpu", "cuda" or "mps"; "auto" takes an accelerator where there is one. cuda, mps: untested on this hardware."""
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        raise InkwellError(f"machine.device = {wanted!r}: PyTorch sees no such device here; use cpu or auto.")
    return wanted


def choose_bf16(wanted: str, device: str) -> bool:
    """Whether to multiply in bf16: as asked, else where it is truly faster; measured on a CPU, once a machine."""
    if wanted != "auto":
        return wanted == "bf16"
    return _precision(device, _facts(device)) == "bf16"
