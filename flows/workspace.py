"""A workspace: a folder in which a whole pipeline runs with parameters of its own and touches nothing outside.

    python -m flows.workspace .smoke corpus=tang size=smoke
    python -m flows.run --workspace .smoke

The code is copied in, so that DVC's hashes, cache, metrics and lock are the workspace's own. The same command again
refreshes code and parameters and keeps caches and outputs: only what changed runs again. What was changed in its params.yaml by
hand is composed anew and told by name; to keep it, put it into a file that is named behind the groups (`... size=smoke mine.yaml`).
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from flows.parameters import ROOT, command_line, compose, render

COPIED = (
    "components",
    "flows",
    "conf",
    "infra/pools",
    "dvc.yaml",
    "prefect.yaml",
    "requirements.lock",
    ".dvcignore",
)
_SETTINGS = {
    "core.analytics": "false",
    "core.check_update": "false",
    "cache.type": "reflink,copy",  # a hard link written in place would corrupt the cache silently
    "plots.html_template": "../conf/dvc-plots/page.html",  # DVC's own page asks other hosts for its scripts
}
_NAMED = 10  # parameters that are named; the rest are counted
_LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache", ".DS_Store"}


def make_workspace(folder: Path, overrides: Sequence[str] = (), source: Path = ROOT) -> list[Path]:
    """Create or refresh `folder` and return the files that were written.

    Raises InkwellError when the parameters do not compose or `folder` holds something else.
    """
    if folder.resolve() == source.resolve():
        raise InkwellError(f"{folder} is the project itself: name a folder of its own, for instance .smoke.")
    if folder.exists() and any(folder.iterdir()) and not (folder / ".dvc").exists():
        raise InkwellError(f"{folder} exists and is no workspace: name another folder or empty this one.")
    configuration = compose(source / "conf", overrides)
    # The workspace is another folder: what the user named relative to here has to be found from there as well.
    sources = [
        entry.model_copy(update={"location": os.path.abspath(entry.location)})  # noqa: PTH100 - a glob, not a path
        if entry.kind == "path" and not entry.location.startswith("~")
        else entry
        for entry in configuration.ingest.sources
    ]
    configuration = configuration.model_copy(
        update={"ingest": configuration.ingest.model_copy(update={"sources": sources})}
    )
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name in COPIED:
        origin = source / name
        if origin.is_dir():
            written += _mirror(origin, folder / name)
        elif origin.exists():
            written += _copy(origin, folder / name)
    parameters = render(configuration, command_line(overrides))
    if not (folder / "params.yaml").exists() or (folder / "params.yaml").read_text(encoding="utf-8") != parameters:
        from components.atomic import atomic_file

        with atomic_file(folder / "params.yaml") as temporary:
            temporary.write_text(parameters, encoding="utf-8")
        written.append(folder / "params.yaml")
    if not (folder / ".dvc" / "config").exists():
        _initialise(folder)
    return written


def differing(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> list[str]:
    """Names of the parameters whose values are not the same in both: "clean.denied", "pretrain.steps"."""
    found: list[str] = []
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name), after.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differing(one, other, f"{above}{name}.")
        elif one != other:
            found.append(f"{above}{name}")
    return found


def _values(path: Path) -> Mapping[str, Any]:
    """What stands in params.yaml; nothing where there is none, or none that can be read."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _mirror(origin: Path, target: Path) -> list[Path]:
    wanted = {
        path.relative_to(origin)
        for path in origin.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not _LEFT_OUT.intersection(path.relative_to(origin).parts)
    }
    if target.exists():
        for path in sorted(target.rglob("*"), reverse=True):
            relative = path.relative_to(target)
            if path.is_file() and relative not in wanted and "__pycache__" not in relative.parts:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    return [written for relative in sorted(wanted) for written in _copy(origin / relative, target / relative)]


def _copy(origin: Path, target: Path) -> list[Path]:
    if target.exists() and filecmp.cmp(origin, target, shallow=False):
        return []
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.copying")
    shutil.copy2(origin, temporary)
    temporary.replace(target)
    return [target]


def _initialise(folder: Path) -> None:
    from flows.processes import environment

    def dvc(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InkwellError(f"{folder}: `dvc {' '.join(arguments)}` failed: {' '.join(done.stderr.split())}.")

    # One write of a config file instead of three starts of dvc at a second each.
    dvc("init", "--no-scm", "--quiet", "--force")
    from configobj import ConfigObj

    config = ConfigObj(str(folder / ".dvc" / "config"), encoding="utf-8")
    for key, value in _SETTINGS.items():
        section, name = key.split(".")
        config.setdefault(section, {})[name] = value
    config.write()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.workspace", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the workspace is, or will be")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="group=name | section.key=value | FILE.yaml",
        help="its parameters, as in flows.parameters",
    )
    arguments = parser.parse_intermixed_args(argv)
    parameters = arguments.folder / "params.yaml"
    before = _values(parameters)
    try:
        written = make_workspace(arguments.folder, arguments.overrides)
    except InkwellError as error:
        print(f"workspace: {error}", file=sys.stderr)
        return 2
    changed = differing(before, _values(parameters)) if before else []
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        print(f"{parameters} is composed anew; other than what stood there: {', '.join(changed[:_NAMED])}{more}.")
    print(
        f"{arguments.folder}: {len(written)} files written; `python -m flows.run --workspace {arguments.folder}` runs it."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
