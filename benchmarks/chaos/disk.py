"""A disk that becomes full: a file system of its own for a workspace, in memory, as small as one likes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from components.errors import InkwellError

_PAGE = 4096  # bytes: what a file takes is a multiple of it
_FREED = 2**30  # bytes of room once somebody has cleaned up


def allocated(folder: Path) -> int:
    """Bytes that the files of a folder take on a disk."""
    sizes = [path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)


class SmallDisk:
    """A folder that is moved to a tmpfs with `room` bytes left; InkwellError where this process may not mount one.

    `free_room` makes it large, as somebody who cleans up would; `give_back` moves the folder to the disk below again.
    """

    def __init__(self, folder: Path, room: int) -> None:
        self.folder = folder
        aside = folder.with_name(f"{folder.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        folder.mkdir()
        try:
            _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder))
        except InkwellError:
            folder.rmdir()
            aside.rename(folder)
            raise
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(aside)
        _mount("-o", f"remount,size={shutil.disk_usage(folder).used + room}", str(folder))

    def free_room(self) -> None:
        """Let it grow by a gibibyte."""
        _mount("-o", f"remount,size={shutil.disk_usage(self.folder).used + _FREED}", str(self.folder))

    def give_back(self) -> None:
        """What it holds takes its place as a plain folder; nothing happens the second time."""
        if not self.folder.is_mount():
            return
        aside = self.folder.with_name(f"{self.folder.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(self.folder, aside, symlinks=True)
        release(self.folder)
        self.folder.rmdir()
        aside.rename(self.folder)


def release(folder: Path) -> None:
    """Take away what is mounted at `folder`, which a benchmark that was killed may have left."""
    if folder.is_mount():
        # Lazily: whoever still stands in it keeps it until then.
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InkwellError(f"no file system can be mounted: {error}.") from error
    if done.returncode:
        raise InkwellError(f"no file system can be mounted: {' '.join(done.stderr.split())}.")
