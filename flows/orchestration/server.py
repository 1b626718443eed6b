"""Prefect's server for one command, where the user has none: it ends with the command, however that ends.

Prefect would start one by itself, as a child that a `kill -9` leaves behind and without the service that takes back the
concurrency slots of the dead, so that the next run would wait for ever.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from components.errors import InkwellError
from flows.processes import Command, environment

_HOST = "127.0.0.1"
_ASKED = 10.0  # seconds that a server which the user names may take to answer
_DRAINED = 20.0  # seconds for the last logs and events
# It serves this command only: nobody looks at pages, and schedules of deployments are for servers that stay.
_NOT_NEEDED = ("SERVICES_SCHEDULER", "SERVICES_LATE_RUNS", "SERVICES_FOREMAN", "UI")


@contextlib.contextmanager
def server() -> Iterator[None]:
    """Prefect's API for the block: the server that PREFECT_API_URL or the profile names, else one that is started here.

    InkwellError when the named one does not answer, or the own one does not start.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    named = PREFECT_API_URL.value()
    if named:
        _check(str(named))
        yield
        return
    with _started() as address, temporary_settings({PREFECT_API_URL: address}):
        try:
            yield
        finally:
            _drain()


def _check(address: str) -> None:
    import httpx

    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=_ASKED)
    except httpx.TransportError as error:
        raise InkwellError(
            f"Prefect's server at {_without_password(address)} does not answer ({type(error).__name__}): start it, or unset PREFECT_API_URL "
            "for a server of this command's own."
        ) from error


def _without_password(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


@contextlib.contextmanager
def _started() -> Iterator[str]:
    """The address of the API of a server in a process group of its own, which its keeper ends when this process dies."""
    with socket.socket() as found:
        found.bind((_HOST, 0))
        port = found.getsockname()[1]
    env = environment()
    env |= {f"PREFECT_SERVER_{name}_ENABLED": "false" for name in _NOT_NEEDED}
    command = [sys.executable, "-m", "flows.server", "--port", str(port)]
    with Command(command, Path.cwd(), env, together=True) as running:
        said: deque[str] = deque(maxlen=20)
        # The pipe must be read, or the server stops when it is full.
        reader = threading.Thread(target=_read, args=(running, said), daemon=True)
        reader.start()
        try:
            address = f"http://{_HOST}:{port}/api"
            _await(running, address, said)
            yield address
        finally:
            running.end()
            reader.join(5)  # before the pipe is closed


def _read(running: Command, said: deque[str]) -> None:
    said.extend(line for line in running.lines() if line.strip())


def _await(running: Command, address: str, said: deque[str]) -> None:
    import httpx
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    patience = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        status = running.process.poll()
        if status is not None:
            raise InkwellError(f"Prefect's server did not start (status {status}): {_last(said)}")
        try:
            # Not by way of a proxy that the environment names: it is on this machine.
            if httpx.get(f"{address}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise InkwellError(
        f"Prefect's server did not answer within {patience:g} seconds (PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS): {_last(said)}"
    )


def _last(said: deque[str]) -> str:
    # A copy: the reader may add to it meanwhile.
    lines = [line.strip() for line in said.copy()]
    return lines[-1] if lines else "it said nothing"


def _drain() -> None:
    """Send what is waiting, while the server still lives; whoever logs later gets a sender of his own."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for sender in (APILogWorker, EventsWorker):
        with contextlib.suppress(Exception):  # the run is over: a log line less does not make it fail
            sender.drain_all(timeout=_DRAINED)
