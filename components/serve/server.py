"""llama.cpp's server out of the xllamacpp wheel, on loopback."""

from __future__ import annotations

import json
import secrets
import shlex
import signal
import socket
from pathlib import Path

from components.errors import InkwellError
from components.guard import HOST, Guard

PREFERRED = ("q8_0", "f16", "q4_k_m")  # half the size at no measurable loss first


def find_model(folder: Path, format: str | None) -> Path:
    """The GGUF file of `folder` in `format`, or in the first of PREFERRED that there is.

    Raises InkwellError naming what there is.
    """
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise InkwellError(f"{folder} holds no GGUF file: run `dvc repro export` first, or give --export.")
    for wanted in [format] if format else PREFERRED:
        for file in files:
            if file.stem.endswith(f"-{wanted}"):
                return file
    if format:
        raise InkwellError(
            f"{folder} holds no GGUF file in {format}; there is {', '.join(file.name for file in files)}."
        )
    return files[0]


def listen(port: int) -> socket.socket:
    """A listening socket on `port`, or on any free one for 0; InkwellError when it is taken."""
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise InkwellError(
            f"Port {port} on {HOST} cannot be had ({error}): give another with --port, 0 takes any free one."
        ) from error


def serve(model: Path, port: int = 8080, threads: int = 1, slots: int = 2) -> None:
    """Serve `model` until SIGINT or SIGTERM; prints the address and a line to try it with.

    Only this machine can connect, and only pages that the server itself delivered may talk to it from a browser.
    """
    import uvicorn
    import xllamacpp

    from components.serve.door import door

    listening = listen(port)
    port = listening.getsockname()[1]
    address = f"http://{HOST}:{port}"
    with listen(0) as free:
        inner = free.getsockname()[1]
    key = secrets.token_urlsafe(32)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {model.stem}
    parameters.hostnames = [HOST]
    parameters.port = inner
    parameters.api_keys = [key]
    parameters.cors_origins = address  # it answers with these very words, and the header holds one origin
    parameters.n_parallel = slots
    parameters.offline = True
    parameters.verbosity = 1  # warnings and errors
    for threading_settings in (parameters.cpuparams, parameters.cpuparams_batch):
        threading_settings.n_threads = threads
        threading_settings.poll = 0  # a server that waits uses no processor
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends it as Ctrl-C does
    try:
        try:
            server = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError) as error:
            raise InkwellError(f"{model}: llama.cpp cannot serve it ({error}); export it again.") from error
        print(f"{model.name} at {address} (this machine only; Ctrl-C stops it)")
        print(f"  chat page:      {address}")
        print(f"  OpenAI clients: {address}/v1")
        print(f"  {try_line(model, address)}", flush=True)
        guarded = Guard(door(server.listening_address, key), port)
        settings = uvicorn.Config(guarded, lifespan="off", log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has ended at the signal, and raises it again
        pass
    print("stopped.")


def try_line(model: Path, address: str) -> str:
    """A curl command that asks the model for something it knows; from the manifest beside it, where there is one."""
    manifest = model.parent / "manifest.json"
    example = {"messages": [{"role": "user", "content": "..."}]}
    if manifest.exists():
        example = json.loads(manifest.read_text(encoding="utf-8")).get("example", example)
    path = "/v1/chat/completions" if "messages" in example else "/v1/completions"
    body = json.dumps(example | {"max_tokens": 200}, ensure_ascii=False)
    return f"curl {address}{path} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
