"""Several processes that run one step together: where this one stands among them, starting them, speaking with one voice.

Whoever starts them (this module, torchrun, Slurm's srun, Ray Train), each is the same `python -m components.<step>` and
learns its place from the environment. Process 0, the leader, alone prints, writes outputs and tells MLflow. Only the
standard library is imported: a step asks here before its work starts.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.machine.cores import allowed_cores, share_cores

if TYPE_CHECKING:
    from components.configuration.training import Machine, Parallel

_STARTED_BY = (
    "INKWELL_STARTED_BY"  # "self:<process id>" or "ray": who set the variables below, where it was not torchrun
)
_LEADER_SECONDS, _FOLLOWER_SECONDS = 3.0, 12.0  # how long the last words of a process wait for a better explanation
_GRACE_SECONDS = 5.0  # between asking a process to end and ending it


@dataclass(frozen=True)
class Place:
    """One process among `size`: `rank` of all, `local_rank` of the `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    launcher: str = "none"

    @property
    def leader(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Machines, each with as many processes as this one."""
        return self.size // self.local_size


def here(environment: Mapping[str, str] | None = None) -> Place:
    """This process's place, as whoever started it says: torchrun's variables (Ray Train and we set the same), or Slurm's."""
    known = os.environ if environment is None else environment
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= known.keys():
        rank, size, local_rank = int(known["RANK"]), int(known["WORLD_SIZE"]), int(known["LOCAL_RANK"])
        return Place(
            rank,
            size,
            local_rank,
            int(known.get("LOCAL_WORLD_SIZE", size)),
            int(known.get("GROUP_RANK", known.get("NODE_RANK", "0"))),
            known.get("MASTER_ADDR", "127.0.0.1"),
            int(known.get("MASTER_PORT", "29400")),
            known.get(_STARTED_BY, "torchrun").partition(":")[0],
        )
    # a batch script, or a shell in an allocation, has most of Slurm's variables too; only srun starts a step
    if "SLURM_STEP_ID" in known and int(known.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _slurm_place(known)
    return Place()


def _slurm_place(known: Mapping[str, str]) -> Place:
    size = int(known["SLURM_STEP_NUM_TASKS"])
    nodes = int(known.get("SLURM_STEP_NUM_NODES", "1"))
    if size % nodes:
        raise InkwellError(
            f"Slurm started {size} tasks on {nodes} machines: give each as many, with --ntasks-per-node."
        )
    job = int(known.get("SLURM_JOB_ID", "0"))
    return Place(
        int(known["SLURM_PROCID"]),
        size,
        int(known["SLURM_LOCALID"]),
        size // nodes,
        int(known.get("SLURM_NODEID", "0")),
        known.get("MASTER_ADDR") or first_host(known.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        # every process can work it out, and two jobs on one machine rarely agree
        int(known.get("MASTER_PORT") or 15000 + job % 10000),
        "slurm",
    )


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list: "gpu[07-09,12],login" is gpu07, "rack[1-2]n[01-04]" rack1n01."""
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    assert found is not None, f"no host in {nodes!r}"
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", found[0])


def started_by(launcher: str) -> dict[str, str]:
    """The variable by which processes know who started them, where it was not torchrun or Slurm."""
    return {_STARTED_BY: launcher}


def check_place(place: Place, parallel: Parallel) -> None:
    """Raise InkwellError where `machine.parallel` asks for other processes than there are.

    One process on one machine, the default, takes what the environment gives.
    """
    wanted = parallel.launcher
    if wanted == "ray" and place.launcher == "none":
        return  # Ray is asked to start them
    if wanted not in ("auto", "self") and place.launcher != wanted:
        how = {
            "torchrun": "start the step with `torchrun --nproc-per-node N -m components.<step>`",
            "slurm": "start the step with `srun python -m components.<step>` (infra/slurm)",
            "ray": f"{place.launcher} did; use auto or {place.launcher}",
        }[wanted]
        raise InkwellError(f"machine.parallel.launcher = {wanted!r}, but it did not start this process: {how}.")
    if wanted == "self" and place.launcher not in ("none", "self"):
        raise InkwellError(
            f"machine.parallel.launcher = 'self', but {place.launcher} started this process: use auto or {place.launcher}."
        )
    if place.size > 1 and (parallel.count, parallel.nodes) not in ((1, 1), (place.local_size, place.nodes)):
        raise InkwellError(
            f"machine.parallel asks for {parallel.count} processes on each of {parallel.nodes} machines, but "
            f"{place.launcher} started {place.local_size} on each of {place.nodes}: make them agree, or leave them out."
        )
    if place.size == 1 and parallel.nodes > 1:
        raise InkwellError(
            f"machine.parallel.nodes = {parallel.nodes}: several machines need torchrun, Slurm or Ray to start the "
            "processes (docs/distributed.md)."
        )


def start_all(command: Sequence[str], processes: int) -> int:
    """Run `command` in that many processes of one world on this machine; the exit status of the first that failed, else 0.

    When one fails the others are ended; when this process ends, even by `kill -9`, they end themselves (`join_world`).
    """
    world = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        **started_by(f"self:{os.getpid()}"),
    }
    if sys.platform == "linux":  # gloo would ask the name service for this machine's address, which may not know it
        world["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    workers: list[subprocess.Popen[bytes]] = []
    try:
        with _forwarded(workers):
            for rank in range(processes):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                workers.append(subprocess.Popen(command, env={**os.environ, **world, **own}))
            return _first_failure(workers)
    finally:
        _end(workers)


def free_port() -> int:
    """A port of the loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_failure(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        states = [worker.poll() for worker in workers]
        for rank, state in enumerate(states):
            if state is not None and state < 0:
                print(
                    f"process {rank} of {len(workers)} was ended by {signal.Signals(-state).name}; the same command goes "
                    "on from the last checkpoint.",
                    file=sys.stderr,
                )
                return 1
            if state:
                return state
        if all(state == 0 for state in states):
            return 0
        time.sleep(0.05)


@contextmanager
def _forwarded(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """SIGTERM and SIGINT reach the workers; what they end with is the answer."""

    def forward(number: int, frame: FrameType | None) -> None:
        # Ctrl-C on a terminal has reached them already: a second one would disturb what they do about the first
        if number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty():
            return
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def join_world(place: Place, machine: Machine) -> None:
    """What a process does first when it is one of several: end with its parent, and keep to its share of the cores."""
    if place.size == 1:
        return
    if place.launcher not in ("self", "torchrun"):  # Slurm and Ray end their processes themselves
        divided = _divided_by_slurm(place, os.environ)
        together = allowed_cores() * place.local_size if divided else None
        share_cores(place.local_size, divided=divided, together=together)
        return
    parent = os.environ.get(_STARTED_BY, "").partition(":")[2]
    expected = int(parent) if parent else os.getppid()

    def follow() -> None:
        while os.getppid() == expected:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="end-with-parent").start()
    divided, together = False, allowed_cores()
    if machine.device == "cpu" and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = len(cores) // place.local_size
        if share:  # with fewer cores than processes the system shares them out
            os.sched_setaffinity(0, cores[place.local_rank * share : (place.local_rank + 1) * share])
            divided = True
    share_cores(place.local_size, divided=divided, together=together)


def _divided_by_slurm(place: Place, known: Mapping[str, str]) -> bool:
    """Whether srun has bound each of its tasks to a part of the cores that the job has on this machine."""
    whole = known.get("SLURM_CPUS_ON_NODE", "")
    return place.launcher == "slurm" and whole.isdigit() and allowed_cores() * place.local_size <= int(whole)


@contextmanager
def one_voice(place: Place) -> Iterator[None]:
    """Followers print nothing in this block; what its exceptions say is printed once, by the process that knows best.

    An error of all is told by the leader, which ends the others (their launcher does) before they would repeat it. An
    error of one follower is told by it: what the others see is a broken connection, and they wait for their end.
    """
    if place.size == 1:
        yield
        return
    shown = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - the null device is no path
        if not place.leader:
            sys.stdout = sys.stderr = nowhere
        try:
            yield
        except Exception as error:
            if not (place.leader and isinstance(error, InkwellError)):
                time.sleep(_LEADER_SECONDS if place.leader else _FOLLOWER_SECONDS)
            raise
        finally:
            sys.stdout, sys.stderr = shown


def run_together(place: Place, machine: Machine, module: str, arguments: Sequence[str], work: Callable[[], int]) -> int:
    """Exit status of `work` done by all processes of `machine.parallel`; starts them where nobody has.

    Without other processes `work` is done here. Errors of the work are the caller's to tell; see `one_voice`.
    """
    check_place(place, machine.parallel)
    if machine.parallel.launcher == "ray" and place.launcher == "none":
        from components.launch.ray_processes import start_on_ray

        return start_on_ray(module, arguments, machine)
    if place.size == 1 and machine.parallel.count > 1:
        return start_all([sys.executable, "-m", module, *arguments], machine.parallel.count)
    join_world(place, machine)
    return work()
