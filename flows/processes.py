"""Commands in a session of their own, so that nothing of them is left when they have to end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

_GRACE = 10.0  # seconds between the polite and the final signal


def environment(pipeline: str | None = None) -> dict[str, str]:
    """The environment of a pipeline's commands: this interpreter first on the path, no telemetry, unbuffered output."""
    from components.step import quiet_environment

    quiet_environment()
    found = dict(os.environ)
    # The stages say `python`: it has to be the one that runs this, also where the environment is not activated.
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", "")])
    found["PYTHONUNBUFFERED"] = "1"
    found["DVC_NO_ANALYTICS"] = "1"
    if pipeline:
        found["INKWELL_PIPELINE"] = pipeline
    return found


def kept(command: Sequence[str]) -> list[str]:
    """The command under its keeper, which ends its whole group when the process that started it is gone, even by `kill -9`.

    To be started as the leader of a new session, its standard input a pipe from the starter that is never written.
    """
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py")), *command]


class Command:
    """One command and its process group; leaving the block ends whatever is still alive in the group.

    Standard output is piped and read by `lines`; standard error is piped into it with `together`, else it stays where
    it is, so that progress bars still find their terminal.
    """

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str], together: bool = False) -> None:
        self.process = subprocess.Popen(
            kept(command),
            cwd=folder,
            env=dict(env),
            stdin=subprocess.PIPE,  # never written: its end tells the keeper that this process has died
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if together else None,
            start_new_session=True,
        )
        self.timed_out = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        self.end()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def end_after(self, seconds: float) -> None:
        """End the group when `seconds` have passed; `timed_out` tells that it happened."""

        def expire() -> None:
            self.timed_out = True
            self.end()

        self._timer = threading.Timer(seconds, expire)
        self._timer.daemon = True
        self._timer.start()

    def lines(self) -> Iterator[str]:
        """Lines as they are written, without their ends; bytes that are no UTF-8 are replaced."""
        pipe: IO[bytes] | None = self.process.stdout
        assert pipe is not None
        for line in iter(pipe.readline, b""):
            yield line.decode("utf-8", errors="replace").rstrip("\r\n").rpartition("\r")[2]

    def wait(self) -> int:
        """The exit status, once the command has ended."""
        return self.process.wait()

    def end(self) -> None:
        """SIGTERM to the whole group, SIGKILL to what is left of it after ten seconds."""
        group = self.process.pid
        if not _signal(group, signal.SIGTERM):
            self.process.wait()
            return
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline:
            self.process.poll()  # a zombie leader would keep the group alive
            if not _signal(group, 0):
                return
            time.sleep(0.05)
        _signal(group, signal.SIGKILL)
        self.process.wait()


def _signal(group: int, number: int) -> bool:
    """Whether the group still existed when it was sent `number`."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return False
    return True


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the block, so that Ctrl-C and `kill` end in the same way."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
