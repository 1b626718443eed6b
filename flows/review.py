"""MLflow's pages and the report card for a reviewer, on this machine only.

python -m flows.review                   MLflow on port 5000; Ctrl-C ends it
python -m flows.review --port 5001       on another port
python -m flows.review --workspace .smoke
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError
from components.fetching.locations import public
from flows.processes import Command, environment, terminating

_HOST = "127.0.0.1"
_PATIENCE = 180.0  # seconds for MLflow to answer; it takes five on a quiet machine


def review(workspace: Path, port: int) -> None:
    """Serve until interrupted. Raises InkwellError when the port is taken or MLflow does not start."""
    print(f"Report card: {_report(workspace)}", flush=True)
    uri = _tracking_uri(workspace)
    if uri.startswith(("http:", "https:")):
        print(f"MLflow:      {public(uri)} (tracking.uri in params.yaml; nothing to start here)", flush=True)
        return
    _check_free(port)
    state = (workspace / ".inkwell").absolute()
    state.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "ui", "--host", _HOST, "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", (state / "mlartifacts").as_uri(), *_refusals(port)),
    ]
    with Command(command, state, _environment(uri), together=True) as server:
        said: deque[str] = deque(maxlen=20)
        # The pipe must be read, or the server stops when it is full.
        threading.Thread(target=lambda: said.extend(server.lines()), daemon=True).start()
        print("MLflow:      starting ...", flush=True)
        _await(server, port, said)
        print(f"MLflow:      http://{_HOST}:{port}\nCtrl-C ends it.", flush=True)
        status = server.wait()
        raise InkwellError(f"MLflow ended by itself (status {status}): {_last(said)}")


def _refusals(port: int) -> list[str]:
    """Options by which MLflow answers its own pages only.

    By itself it takes any name that begins like a private address (10.*), which a foreign page may have its own name begin with
    too, and the variables of the environment may open it altogether.
    """
    names = [f"{name}:{port}" for name in (_HOST, "localhost")]
    return [
        *("--allowed-hosts", ",".join(names)),
        *("--cors-allowed-origins", ",".join(f"http://{name}" for name in names)),
        *("--x-frame-options", "DENY"),
    ]


def _environment(uri: str) -> dict[str, str]:
    """MLflow's environment: where its records are, which is not for the list of processes, and nothing that opens it to others."""
    found = {**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    found.pop("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", None)  # MLflow takes any value for yes
    return found


def _report(workspace: Path) -> str:
    page = workspace / "reports" / "index.html"
    return page.absolute().as_uri() if page.exists() else "not made yet: run `make run` or `dvc repro report`"


def _tracking_uri(workspace: Path) -> str:
    from components.configuration import load

    parameters = workspace / "params.yaml"
    given = load(parameters).tracking.uri if parameters.exists() else None
    return given or f"sqlite:///{(workspace / '.inkwell' / 'mlflow.db').absolute().as_posix()}"


def _check_free(port: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            raise InkwellError(
                f"port {port} on {_HOST} cannot be used ({error}): end what listens there, or give another with --port."
            ) from error


def _await(server: Command, port: int, said: Sequence[str]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if (status := server.process.poll()) is not None:
            raise InkwellError(f"MLflow did not start (status {status}): {_last(said)}")
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise InkwellError(f"MLflow did not answer on port {port} within {_PATIENCE:.0f} seconds: {_last(said)}")


def _last(said: Sequence[str]) -> str:
    lines = [line.strip() for line in said if line.strip()]
    return lines[-1] if lines else "it said nothing"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.review",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit status: 0 ended by Ctrl-C, 2 something to mend (told in one sentence), 1 a defect.",
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        with terminating():
            review(arguments.workspace, arguments.port)
    except InkwellError as error:
        print(f"review: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
