"""Independent work in processes beside each other, each on cores of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def side_by_side(work: Callable[..., None], calls: Sequence[tuple[Any, ...]], most: int) -> None:
    """Run `work(*call)` for every call, at most `most` at a time; the first exception is raised here.

    Two processes of one thread finish a small model's work sooner than one process of two threads, and far sooner on a
    busy machine, where threads wait for each other at every layer. How many threads each gets depends on `most` and
    the machine, not on the number of calls, so that a resumed run rounds as an undisturbed one does.
    """
    from components.machine.cores import choose_threads

    cores = choose_threads(None)
    workers = min(most, cores)
    if not calls:
        return
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin, (max(1, cores // workers),)
    ) as pool:
        for future in [pool.submit(work, *call) for call in calls]:
            future.result()


def _begin(threads: int) -> None:
    import torch

    from components.launch.child_processes import end_with_parent

    end_with_parent()
    torch.set_num_threads(threads)
