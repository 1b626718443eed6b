"""Where batches are worked on: in this process, in processes of this machine, or on a Ray cluster.

Whatever the place, the same batches give the same results in the same order, so that nothing downstream can tell. About two
batches a worker are under way at a time; memory is bounded by that, not by the corpus.

Batches travel as Arrow streams: pickling a slice of a table would send the whole of its buffers.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from components.errors import InkwellError
from components.launch.child_processes import SINGLE_THREADED, end_with_parent, single_threaded

if TYPE_CHECKING:
    import pyarrow as pa

    Work = Callable[[pa.Table], pa.Table]

_BATCHES_A_WORKER = 2  # one that is worked on and one that waits for it
_RAY_STORE = 512 * 2**20  # bytes of shared memory of a local Ray: a few batches


def mapped(
    make: Callable[[], Work], tables: Iterable[pa.Table], executor: Literal["local", "ray"], workers: int | None
) -> Iterator[pa.Table]:
    """`make()(table)` for every table, in order, in `workers` processes; None means one a core (Ray: one a CPU of the cluster).

    `make` is called once in each worker, where it may load what is heavy; it is pickled, so it is a function of a module or a
    `functools.partial` of one. An InkwellError raised by it or by the work arrives here as itself. A worker that was killed, and
    a Ray that does not start, are told as InkwellErrors too. Leaving the iterator early ends the workers.
    """
    if executor == "ray":
        return _by_ray(make, tables, workers)
    from components.machine.cores import choose_threads

    workers = choose_threads(workers)
    return _in_processes(make, tables, workers) if workers > 1 else _here(make, tables)


def _here(make: Callable[[], Work], tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    work: Work | None = None
    for table in tables:
        work = work or make()
        yield work(table)


# --- processes of this machine ---


def _in_processes(make: Callable[[], Work], tables: Iterable[pa.Table], workers: int) -> Iterator[pa.Table]:
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    already = set(multiprocessing.active_children())
    # spawn: the threads of Arrow and of libraries in Rust do not survive a fork
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (pickle.dumps(make),))
    waiting: deque[Future[bytes]] = deque()
    try:
        for table in tables:
            waiting.append(pool.submit(_work_on, _packed(table)))
            if len(waiting) >= _BATCHES_A_WORKER * workers:
                yield _unpacked(waiting.popleft().result())
        while waiting:
            yield _unpacked(waiting.popleft().result())
    except BrokenProcessPool as error:
        raise InkwellError(
            "a worker process was killed, most likely for want of memory: set tag.workers lower, or tag.maximum_characters "
            "so that very long documents are divided."
        ) from error
    finally:
        # At the end the workers are idle. When somebody left early they may be busy for long, with nothing that is wanted.
        for process in set(multiprocessing.active_children()) - already if waiting else ():
            process.kill()
        pool.shutdown(cancel_futures=True)


_make: bytes = b""
_work: Work | None = None


def _begin(make: bytes) -> None:
    """The beginning of a worker; `make` is still pickled, because unpickling it imports libraries."""
    global _make
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal; the parent ends its workers
    single_threaded()
    end_with_parent()
    _make = make


def _work_on(packed: bytes) -> bytes:
    global _work
    if _work is None:  # here and not in `_begin`, so that an InkwellError finds its way to the parent
        _one_arrow_thread()
        _work = pickle.loads(_make)()
    return _packed(_work(_unpacked(packed)))


def _one_arrow_thread() -> None:
    import pyarrow as pa

    pa.set_cpu_count(1)


def _packed(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _unpacked(packed: bytes) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(packed).read_all()


# --- Ray ---


def _by_ray(make: Callable[[], Work], tables: Iterable[pa.Table], workers: int | None) -> Iterator[pa.Table]:
    with on_ray(workers) as ray:
        there = max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = min(
            workers or there, there
        )  # an actor without a CPU of its own would wait for ever, and its batches with it
        # Work is a pure function of its batch, so a lost worker or node costs a repetition and no more.
        actor = ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(_Worker)
        crew = [actor.remote(pickle.dumps(make)) for _ in range(count)]
        load = [0] * count  # batches that were handed to each and are not finished
        running: dict[Any, int] = {}  # batch -> whose it is
        waiting: deque[Any] = deque()
        for table in tables:
            whose = load.index(min(load))
            batch = crew[whose].work_on.remote(_packed(table))
            load[whose] += 1
            running[batch] = whose
            waiting.append(batch)
            while len(waiting) >= _BATCHES_A_WORKER * count:
                yield _fetched(ray, waiting.popleft())
                done, _ = ray.wait(list(running), num_returns=len(running), timeout=0, fetch_local=False)
                for finished in done:
                    load[running.pop(finished)] -= 1
        while waiting:
            yield _fetched(ray, waiting.popleft())


class _Worker:
    """A worker on Ray; Ray gives it a process of its own."""

    def __init__(self, make: bytes) -> None:
        self._make = make
        self._work: Work | None = None

    def work_on(self, packed: bytes) -> bytes:
        """One batch."""
        if self._work is None:
            _one_arrow_thread()
            self._work = pickle.loads(self._make)()
        return _packed(self._work(_unpacked(packed)))


def _fetched(ray: Any, batch: Any) -> pa.Table:
    try:
        return _unpacked(ray.get(batch))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InkwellError):
            raise error.cause from None
        if isinstance(error.cause, ImportError):
            raise InkwellError(
                f"a Ray worker cannot import what the work needs ({error.cause}): install requirements.lock on every node, "
                "with the same version of Python."
            ) from error
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise InkwellError(
            "a Ray worker died and so did those that took its place, most likely for want of memory: set tag.workers lower, "
            "give the nodes more memory, or set tag.maximum_characters so that very long documents are divided."
        ) from error
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise InkwellError(f"Ray cannot send the code to its workers: {_first_line(error)}.") from error


@contextlib.contextmanager
def on_ray(workers: int | None) -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS or to a local one that lives as long as the block.

    Where this process is connected to Ray already, that is used and left as it is. InkwellError where Ray cannot start.
    """
    import logging
    from pathlib import Path

    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_DEDUP_LOGS": "0",
    }.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise InkwellError("tag.executor = 'ray' needs the package ray: `pip install ray`, or use local.") from error
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    _somebody_listens(address)
    local: dict[str, Any] = {}
    if address == "local":
        from components.machine.cores import choose_threads

        local = {
            "num_cpus": choose_threads(workers),
            "object_store_memory": _RAY_STORE,
            "include_dashboard": False,
        }
    environment = {
        "py_modules": [str(Path(__file__).parents[1])],  # the package `components`, as it is here
        "excludes": ["**/__pycache__"],
        "env_vars": dict(SINGLE_THREADED),
    }
    try:
        ray.init(address=address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False, **local)
    except Exception as error:  # ConnectionError, RuntimeError, TimeoutError, ValueError and its own, by version
        where = "a local Ray does not start" if local else f"there is no Ray cluster at RAY_ADDRESS={address}"
        raise InkwellError(f"{where} ({_first_line(error)}): mend that, or use tag.executor=local.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _somebody_listens(address: str) -> None:
    """Ray itself would try for many minutes to reach a cluster that is not there."""
    import socket

    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():  # "local", "auto", or the name of a session
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise InkwellError(
            f"there is no Ray cluster at RAY_ADDRESS={address} ({error.strerror or error}): start it with `ray start --head`, "
            "or unset RAY_ADDRESS to use a local Ray."
        ) from error


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
