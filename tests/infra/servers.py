"""Real servers for the time of a test, without containers: PostgreSQL, an S3 store, and whatever a command starts."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from components.launch.processes import free_port
from tests.infra.reading import tool


def status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of a GET, 0 where nobody answers."""
    try:
        with urlopen(Request(url, headers=dict(headers or {})), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except (URLError, OSError):
        return 0


@contextmanager
def running(
    command: Sequence[str | Path], ready: Callable[[], bool], folder: Path, env: Mapping[str, str], seconds: float = 120
) -> Iterator[Path]:
    """Run a server in a process group of its own until the block is left; gives the file with what it says."""
    log = folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=dict(env),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + seconds
            while not ready():
                said = log.read_text(encoding="utf-8", errors="replace")
                assert process.poll() is None, f"it ended with {process.returncode}\n{said}"
                assert time.monotonic() < deadline, f"not ready after {seconds} s\n{said}"
                time.sleep(0.2)
            yield log
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def postgres(password: str) -> Iterator[dict[str, str]]:
    """A new PostgreSQL on the loopback; gives libpq's variables of its administrator."""
    initdb = Path(tool("initdb")).resolve()
    programs = _programs(initdb)
    # Not below pytest's folders, which another run of pytest closes to everybody but root.
    folder = Path(tempfile.mkdtemp(prefix="inkwell-postgres-"))
    data, secret, port = folder / "data", folder / "password", free_port()
    secret.write_text(password, encoding="utf-8")
    # PostgreSQL refuses to run as root.
    account = _account() if os.getuid() == 0 else None
    if account:
        for path in (folder, secret):
            shutil.chown(path, account)

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in command], user=account, cwd="/", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run(
        programs / "initdb", "--pgdata", data, "--username=postgres", "--pwfile", secret,
        "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync",
    )  # fmt: skip
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c fsync=off -c unix_socket_directories={data}"
    run(programs / "pg_ctl", "--pgdata", data, "--log", data / "log", "--wait", "--options", options, "start")
    try:
        yield {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "postgres",
            "PGPASSWORD": password,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        }
    finally:
        run(programs / "pg_ctl", "--pgdata", data, "--mode=immediate", "--wait", "stop")
        shutil.rmtree(folder)


def _programs(initdb: Path) -> Path:
    # Some machines have only some of the programs on the path; all of them are in one folder of Debian's.
    folders = [initdb.parent, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists() and (folder / "pg_dump").exists():
            return folder
    return initdb.parent


def _account() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
