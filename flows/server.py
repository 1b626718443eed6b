"""Prefect's server on this machine, for this machine: the API, its pages, schedules and automations.

python -m flows.server                   on port 4200; Ctrl-C ends it
python -m flows.server --port 4201       on another port

It is `prefect server start` behind a guard: Prefect by itself answers whatever name it is called by, and pages of any origin. Its
settings (PREFECT_SERVER_..., PREFECT_HOME) hold here too; the address is always 127.0.0.1.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from components.errors import InkwellError
from components.guard import HOST, Guard, own_origins
from flows.processes import terminating

_GRACE = 5  # seconds that open connections have when it ends


def serve(port: int) -> None:
    """Serve until SIGINT or SIGTERM. Raises InkwellError when the port cannot be had."""
    from flows.pipeline import set_environment

    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise InkwellError(
            f"port {port} on {HOST} cannot be used ({error}): end what listens there, or give another with --port."
        ) from error
    port = listening.getsockname()[1]
    # Its own address and not the one of the server that this shell may be a client of; read when Prefect is imported.
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    os.environ["PREFECT_SERVER_API_HOST"], os.environ["PREFECT_SERVER_API_PORT"] = HOST, str(port)
    os.environ["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] = ",".join(own_origins(port))
    set_environment()
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import PREFECT_SERVER_API_KEEPALIVE_TIMEOUT

    settings = uvicorn.Config(
        Guard(create_app(final=True), port),
        timeout_keep_alive=PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        timeout_graceful_shutdown=_GRACE,
        log_level="warning",
        lifespan="on",
    )
    print(f"Prefect: http://{HOST}:{port}", flush=True)
    print(f"  export PREFECT_API_URL=http://{HOST}:{port}/api", flush=True)
    uvicorn.Server(settings).run(sockets=[listening])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.server",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit status: 0 ended by Ctrl-C or a signal, 2 something to mend (told in one sentence), 1 a defect.",
    )
    parser.add_argument("--port", type=int, default=4200, help="port on 127.0.0.1 (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        with terminating():
            serve(arguments.port)
    except InkwellError as error:
        print(f"server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # uvicorn has ended at the signal, and raises it again
        print(file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
