"""Several processes with a share of the cores each, against one process with a thread a core: which trains faster?

The cores of a shared machine are unequal, and the threads of one process wait for the slowest at the end of every operation;
processes wait for each other once a step, and exchange their gradients then. Both are measured, on training steps: each
process is bound to its cores, they work at the same time, and then they add up as many numbers as the model has weights.
Linux only.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.launch.child_processes import SINGLE_THREADED
from components.machine.cores import available_cores

if TYPE_CHECKING:
    from components.machine.calibration import Trial
    from components.machine.choices import Choices
    from components.training.trial import StepTrial

_MOST = 8  # processes: beyond that many cores, groups of cores
_SECONDS = 3.0
_PATIENCE = 90.0  # seconds after which the processes are given up, imports included
_ROUNDS = 5


@dataclass(frozen=True)
class Division:
    """`processes` with equal shares of each step's rows, measured at the same time.

    gain: how many times as fast as one process; slowest_core: rate of products of the slowest as a share of the fastest's;
    all_reduce_seconds: of adding up the gradients, once a step.
    """

    processes: int
    gain: float
    slowest_core: float
    all_reduce_seconds: float


def measure_processes(trial: Trial, choices: Choices, rate: float, room: int | None = None) -> Division | None:
    """What dividing the cores would gain over `rate`, the tokens a second of one process with `choices`.

    The fewest and the most processes are tried that share cores and rows evenly, about 15 s each; the faster division is
    told. room: processes that there is memory for. None where the step's rows or the cores cannot be divided, or where
    the processes could not be run.
    """
    from components.training.trial import StepTrial

    if not isinstance(trial, StepTrial):
        return None
    cores = available_cores()  # a container may have less processor time than cores
    most = min(_MOST, cores, room or _MOST)
    # of an odd number of cores two processes leave one idle
    even = [n for n in range(2, most + 1) if (n == 2 or cores % n == 0) and trial.divided(n) is not None]
    found = [_measured(trial, choices, rate, cores // n, n) for n in sorted({*even[:1], *even[-1:]})]
    return max((one for one in found if one is not None), key=lambda one: one.gain, default=None)


def _measured(trial: StepTrial, choices: Choices, rate: float, threads: int, processes: int) -> Division | None:
    """Bound to cores as in a run (`components.launch.processes.join_world`), `threads` in each process."""
    share = trial.divided(processes)
    assert share is not None
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // processes
    groups = [cores[index * size : (index + 1) * size] for index in range(processes)]
    found = _run(share, replace(choices, threads=threads, measured={}, identity={}), groups)
    if found is None:
        return None
    # nothing is taken off for overlapping the exchange with the backward pass: gloo needs the cores for it
    exchange = max(one["all_reduce_seconds"] for one in found)
    step = max(share.tokens_a_step / one["rate"] for one in found) + exchange
    products = [one["products"] for one in found]
    gain = processes * share.tokens_a_step / step / rate
    return Division(processes, gain, min(products) / max(products), exchange)


def _run(trial: Any, choices: Choices, groups: list[list[int]]) -> list[dict[str, float]] | None:
    import torch

    threads = {name: str(choices.threads) for name in SINGLE_THREADED if name.endswith("NUM_THREADS")}
    environment = {**os.environ, **SINGLE_THREADED, **threads}
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # this machine's name may not be known to itself
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            torch.save(trial, folder / "trial.pt")
        except (AttributeError, TypeError, RuntimeError, OSError):
            return None  # something of the model is a function that other processes cannot find
        (folder / "job.json").write_text(json.dumps({"choices": asdict(choices), "groups": groups}), encoding="utf-8")
        command = [sys.executable, "-m", "components.training.pinned", str(folder)]
        children: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(len(groups)):
                children.append(
                    subprocess.Popen(
                        [*command, str(rank)],
                        env=environment,
                        cwd=Path(__file__).parents[2],
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                )
            deadline = time.monotonic() + _PATIENCE
            if any(child.wait(max(0.1, deadline - time.monotonic())) for child in children):
                return None
            return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(groups))]
        except (subprocess.TimeoutExpired, OSError, ValueError):
            return None
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()


def main(folder: Path, rank: int) -> int:
    """One of the processes: bind to the cores, measure together with the others, write `<rank>.json`."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from components.machine.ceiling import CeilingMeter
    from components.machine.choices import Choices

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    groups = job["groups"]
    os.sched_setaffinity(0, groups[rank])
    choices = Choices(**job["choices"])
    choices.apply()
    trial = torch.load(folder / "trial.pt", weights_only=False)  # our own file, written a moment ago
    store = dist.FileStore(str(folder / "store"), len(groups))
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=len(groups), timeout=timedelta(seconds=_PATIENCE)
    )
    trial.rate(choices, 0.1)  # whatever is done once
    meter = CeilingMeter(choices.dtype, shapes=((1024, 1024, 1024),))
    dist.barrier()
    meter.read(20)
    dist.barrier()
    rate = trial.rate(choices, _SECONDS)
    dist.barrier()
    gradients = torch.ones(sum(weight.numel() for weight in trial.model.parameters() if weight.requires_grad))
    spent = []
    for _ in range(_ROUNDS):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradients)
        spent.append(time.perf_counter() - started)
    found = {
        "rate": rate,
        "products": meter.ceiling().operations_per_second,
        "all_reduce_seconds": statistics.median(spent),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
