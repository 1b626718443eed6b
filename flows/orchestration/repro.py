"""DVC's command line for caches that may be damaged and disks that may be full: this is how stages are run.

    python -P flows/orchestration/repro.py repro --single-item pretrain      the arguments are DVC's

It differs from `dvc` in three points:
- What is to be restored from the cache is read first. A damaged file is removed with a sentence, and its stage runs or fetches it.
- dvc.lock is written whole or not at all: DVC begins by emptying it, and a full disk or a kill then takes the memory of all stages.
- DVC's table of who reads and writes what (.dvc/tmp/rwlock) begins anew where one of these has left half of it: DVC would refuse for ever.

It is started by its path, since a workspace need not hold this code, and with -P, since what lies beside it is not meant to be imported.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def command(*arguments: str) -> list[str]:
    """The command line of `dvc ARGUMENTS`, to be started in the pipeline's folder."""
    return [sys.executable, "-P", str(Path(__file__).resolve()), *arguments]


def whole_or_not(modify: Callable[..., Any]) -> Callable[..., Any]:
    """`modify`, DVC's way to change a YAML file (path, fs) in a `with` block, on a copy that takes the file's place at the end."""

    @contextlib.contextmanager
    def modified(path: str, fs: Any = None) -> Iterator[Any]:
        from components.atomic import atomic_file

        with atomic_file(Path(path)) as temporary:
            if Path(path).exists():
                shutil.copyfile(path, temporary)
            with modify(str(temporary), fs=fs) as data:
                yield data

    return modified


def mend_table(folder: Path) -> None:
    """Remove `rwlock` in `folder`, DVC's folder for such files, where it is no JSON; it says so."""
    if _readable(folder / "rwlock"):
        return
    from dvc.lock import LockError, make_lock

    # Who changes the table holds this lock meanwhile: perhaps it was only looked at too early.
    with contextlib.suppress(LockError), make_lock(str(folder / "rwlock.lock"), tmp_dir=str(folder)):
        if not _readable(folder / "rwlock"):
            (folder / "rwlock").unlink(missing_ok=True)
            print(f"dvc: {folder / 'rwlock'} was half written (a full disk, a kill) and begins anew.", flush=True)


def _readable(table: Path) -> bool:
    try:
        json.loads(table.read_bytes())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is DVC's."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    import dvc.dvcfile
    import dvc.stage.cache
    from dvc.cli import main as dvc_main

    from flows.orchestration.objects import drop_damaged

    class ReadingStageCache(dvc.stage.cache.StageCache):
        """DVC's memory of what stages made, which reads what it is about to restore."""

        _restoring = False

        def restore(self, stage: Any, *args: Any, dry: bool = False, **kwargs: Any) -> None:
            self._restoring = not dry
            try:
                super().restore(stage, *args, dry=dry, **kwargs)
            finally:
                self._restoring = False

        def _create_stage(self, cache: Any, wdir: Any = None) -> Any:
            # `restore` comes by here with the entry of its choice, of dvc.lock or of an earlier run, before it looks whether all is there.
            if self._restoring:
                for out in cache.get("outs", ()):
                    sentence = drop_damaged(self.repo.cache.local, out["path"], out["md5"]) if out.get("md5") else None
                    if sentence:
                        print(f"cache: {sentence}", flush=True)
            return super()._create_stage(cache, wdir=wdir)

    dvc.stage.cache.StageCache = ReadingStageCache
    dvc.dvcfile.modify_yaml = whole_or_not(dvc.dvcfile.modify_yaml)
    mend_table(Path(".dvc") / "tmp")
    return int(dvc_main(list(sys.argv[1:] if argv is None else argv)) or 0)


if __name__ == "__main__":
    sys.exit(main())
