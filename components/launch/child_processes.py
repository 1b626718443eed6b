"""Processes that this one starts to work for it: they end when it ends, and leave each other the cores."""

from __future__ import annotations

import os
import threading

# Every worker has a core of its own: a library that starts a thread a core in each of them only makes them wait for each other.
SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def end_with_parent() -> None:
    """From now on this process, which `multiprocessing` started, ends as soon as its parent is gone, even by `kill -9`.

    Otherwise it would finish its work for nobody, and then wait for ever.
    """
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was not started by multiprocessing"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="end-with-parent").start()


def single_threaded() -> None:
    """Libraries that are imported from now on use one thread; call it before numpy and the like are imported."""
    os.environ.update(SINGLE_THREADED)
