"""Runs a command and ends its whole process group when the process that asked for it is gone, even by `kill -9`.

python keeper.py COMMAND ARGUMENT...     as the leader of a session of its own, standard input a pipe from the asker
"""

import os
import signal
import subprocess
import sys
import threading
import time

_GRACE = 10.0  # seconds between the polite and the final signal


def _end_with_the_asker(gone: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    gone.set()
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while _others():
        if time.monotonic() > deadline:
            os.killpg(0, signal.SIGKILL)
        time.sleep(0.1)


def _others() -> bool:
    """Whether anybody else is alive in this group; where /proc does not tell, perhaps."""
    try:
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - pathlib would be half of this program's start
    except OSError:
        return True
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                state, _, group = file.read().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it has just ended
            continue
        if int(group) == os.getpgrp() and int(number) != os.getpid() and state not in "ZX":
            return True
    return not numbers


def main() -> int:
    """Exit with the command's status."""
    # A handler, not SIG_IGN: the command must not inherit deafness. The keeper outlives it to report its status.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    gone = threading.Event()
    ender = threading.Thread(target=_end_with_the_asker, args=(gone,), daemon=True)
    ender.start()
    status = child.wait()
    if gone.is_set():  # what the command has started may be deafer than the command, and nobody else would end it
        ender.join()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
