"""Commands that benchmarks run: whatever they start ends with the benchmark, however that ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from components.errors import InkwellError
from flows.processes import Command


def seconds_of(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    allowed: Collection[int] = (0,),
    patience: float | None = None,
) -> float:
    """Wall seconds of a command in `folder`.

    Raises InkwellError with its last words when it ends with a status that is not `allowed`, or takes more than `patience` seconds.
    """
    said: deque[str] = deque(maxlen=20)
    began = time.monotonic()
    with Command(command, folder, env, together=True) as running:
        if patience is not None:
            running.end_after(patience)
        said.extend(running.lines())
        status = running.wait()
        taken = time.monotonic() - began
    name = " ".join(command[1:4])
    if running.timed_out:
        raise InkwellError(f"{name} took more than {patience:.0f} seconds and was ended.")
    if status not in allowed:
        raise InkwellError(f"{name} ended with status {status}: {' '.join(' '.join(said).split())[-300:]}")
    return taken
