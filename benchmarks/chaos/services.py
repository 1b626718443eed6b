"""The servers around a pipeline, as processes that can be killed and started again on the same data."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from components.errors import InkwellError
from components.launch.processes import free_port
from flows.pipeline import set_environment
from flows.processes import environment, kept

_PATIENCE = 180.0  # seconds until a server answers, on a machine that does other things too


class Service:
    """One server: `command` in `folder`, a session of its own, a log beside it. `ready` tells that it answers."""

    def __init__(
        self, name: str, folder: Path, command: list[str], env: Mapping[str, str], ready: Callable[[], bool]
    ) -> None:
        self.name, self.folder, self.command, self.env, self._ready = name, folder, command, dict(env), ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; InkwellError with the place of its log when it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{self.name}.log"
        with log.open("ab") as written:
            self.process = subprocess.Popen(
                kept(self.command),
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.PIPE,  # its end tells the keeper that this process has died
                stdout=written,
                stderr=written,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise InkwellError(f"the {self.name} did not start: {log} says why.")
            time.sleep(0.3)

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            if self.process.stdin:
                self.process.stdin.close()
            self.process = None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what has not ended after ten seconds."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()


def listens(port: int) -> bool:
    """Whether somebody answers at a port of the loopback."""
    with socket.socket() as asked:
        asked.settimeout(1)
        return asked.connect_ex(("127.0.0.1", port)) == 0


def well(address: str) -> bool:
    """Whether the server at `address` says that it is well. Asked without the proxies of the environment: it is on this machine."""
    import httpx

    try:
        return httpx.get(f"{address}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def prefect_server(folder: Path, database: str | None = None) -> tuple[Service, str]:
    """A Prefect server on SQLite in `folder`, or on `database`; the service and its API's address."""
    set_environment()
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    env = {
        **environment(),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    env.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return Service("prefect-server", folder, command, env, lambda: well(address)), address


def initdb() -> str:
    """Debian's program that makes a PostgreSQL database; InkwellError where there is none."""
    found = shutil.which("initdb") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if not found:
        raise InkwellError(
            "PostgreSQL is not installed: `apt install postgresql`, or leave the fault `database` out (--faults)."
        )
    return found


def check_reachable(folder: Path) -> None:
    """InkwellError where this is root and the user postgres, as whom the database has to run, cannot enter `folder`."""
    own = _as_postgres()
    if own and subprocess.run([*own, "test", "-x", str(folder)], capture_output=True, check=False).returncode:
        raise InkwellError(
            f"the user postgres cannot enter {folder}: choose a --workspace that all users can reach, or leave the fault `database` out (--faults)."
        )


def _as_postgres() -> list[str]:
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root


def postgres(folder: Path) -> tuple[Service, str]:
    """Debian's PostgreSQL with its data in `folder`, made where there are none; the service and the address for Prefect.

    InkwellError where it is not installed, or, for root, where there is no user to run it as.
    """
    maker, data, port = initdb(), folder / "postgres", free_port()
    folder.mkdir(parents=True, exist_ok=True)
    own = _as_postgres()
    if not data.exists():
        fresh = folder / "postgres.new"  # a database whose making was killed would never start
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        if own:
            shutil.chown(fresh, "postgres")
            check_reachable(fresh)
        made = subprocess.run(
            [*own, maker, "-D", str(fresh), "--auth=trust", "--username=inkwell", "--encoding=UTF8", "--locale=C"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise InkwellError(f"initdb failed: {' '.join(made.stderr.split())}.")
        fresh.rename(data)
    server = str(Path(maker).with_name("postgres"))
    command = [*own, server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", ""]
    service = Service("postgres", folder, command, environment(), lambda: listens(port))
    return service, f"postgresql+asyncpg://inkwell@127.0.0.1:{port}/postgres"


def mlflow_server(folder: Path, database: str, artifacts: str) -> tuple[Service, str]:
    """An MLflow server over `database` (an SQLAlchemy address), with its log in `folder`; the service and its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", database, "--artifacts-destination", artifacts),
    ]
    # Its own jobs would be eight processes more.
    env = {**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Service("mlflow-server", folder, command, env, lambda: well(address)), address


def object_store(folder: Path) -> tuple[Service, str]:
    """moto's S3 server; what it held is gone with it. The service and its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return Service("object-store", folder, command, environment(), lambda: listens(port)), f"http://127.0.0.1:{port}"
