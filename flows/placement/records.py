"""Records of isolated stages for MLflow, carried home by way of the DVC remote.

A stage in a clone tells a tracking server itself, as far as it can be had. What is left, and all of it where MLflow's database is a file of the
coordinator's, lies under `inkwell/records/<commit>/<record>.tar.gz` until a flow at that commit takes it into its own spool. A record
that comes twice is told once (components.tracking.delivery).
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.step import STATE
from components.tracking.recorder import LOCAL_PATIENCE
from components.tracking.spool import LINES, Record, waiting
from flows.placement.handover import Store
from flows.processes import environment

_EACH = 10.0  # seconds that the delivery of a record may take here


def send(store: Store, commit: str, spool: Path) -> None:
    """Move the records that wait in `spool`, of steps that have ended, to the store. InkwellError when it cannot be had: they stay."""
    from components.tracking.delivery import end_killed, exclusive

    for record in waiting(spool):
        with exclusive(record.folder / LINES) as mine:
            if not mine:  # another process delivers it
                continue
            if not any(entry["kind"] == "finish" for entry in record.entries()[0]):
                end_killed(record)
            store.write(f"{_folder(commit)}/{record.folder.name}.tar.gz", _packed(record))
            record.remove()


def take(store: Store, commit: str, workspace: Path) -> None:
    """Move the records of `commit` from the store to the spool of `workspace`, and deliver them. InkwellError when the store cannot be had."""
    names = store.names(_folder(commit))
    if not names:
        return
    spool = workspace / STATE / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    here = destination(workspace)
    for name in names:
        data = store.read(f"{_folder(commit)}/{name}")
        if data is not None:  # else another flow was faster
            _unpack(data, spool, here)
            store.remove(f"{_folder(commit)}/{name}")
    seconds = _EACH * len(names)
    with contextlib.suppress(subprocess.TimeoutExpired):  # what is left waits in the spool
        subprocess.run(
            [sys.executable, "-m", "components.tracking", "--seconds", str(seconds)],
            cwd=workspace,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds + LOCAL_PATIENCE,
            check=False,
        )


def destination(workspace: Path) -> dict[str, str | None]:
    """`uri` and `artifacts` of the MLflow that the workspace's parameters name, as a record's header has them."""
    from components.configuration import load

    state = (workspace / STATE).absolute()
    uri = load(workspace / "params.yaml").tracking.uri or f"sqlite:///{(state / 'mlflow.db').as_posix()}"
    served = uri.startswith(("http:", "https:"))
    return {"uri": uri, "artifacts": None if served else (state / "mlartifacts").as_uri()}


def _folder(commit: str) -> str:
    return f"records/{commit}"


def _packed(record: Record) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as packed:
        packed.add(record.folder, arcname=record.folder.name)
    return data.getvalue()


def _unpack(data: bytes, spool: Path, here: Mapping[str, Any]) -> None:
    """Put a packed record into `spool`, addressed to `here`; it appears as a whole or not at all."""
    with tempfile.TemporaryDirectory(dir=spool, prefix=".home-") as own:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as packed:
            for member in packed:
                # anybody who may write to the remote may have made it: files alone, where they belong
                content = packed.extractfile(member) if member.isreg() else None
                target = Path(own, member.name).resolve()
                if content is not None and target.is_relative_to(Path(own).resolve()):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content.read())
        (folder,) = Path(own).iterdir()
        header, _, rest = (folder / LINES).read_bytes().partition(b"\n")
        addressed = json.dumps({**json.loads(header), **here}, ensure_ascii=False).encode()
        (folder / LINES).write_bytes(addressed + b"\n" + rest)
        if not (spool / folder.name).exists():
            folder.rename(spool / folder.name)
