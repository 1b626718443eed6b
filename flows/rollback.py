"""Another version is the champion again: one command, with a reason.

    python -m flows.rollback --reason "answers became rude"             the champion before this one
    python -m flows.rollback --to 3 --reason "..." --checkout out/      that version, with its files in a folder

The version's files have to be there, whole, in DVC's cache or on a remote. Exit status: 0 done, 2 something to mend.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.atomic import atomic_folder
from components.errors import InkwellError

if TYPE_CHECKING:
    from flows.promotion.registry import Version


def roll_back(
    workspace: Path, to: str | None, reason: str, by: str | None = None, checkout: Path | None = None
) -> tuple[str, str]:
    """Make version `to` (None: the champion before) the champion; (number now, number before, "" where there was none).

    Raises InkwellError when the version is unknown, was never a champion (and `to` does not name it), or its exported files
    cannot be had with the hashes that the registry knows; nothing is moved then.
    """
    import shutil

    from components.tracking.delivery import exclusive
    from flows.promotion.checks import intact
    from flows.promotion.exported import EXPORT, read_manifest
    from flows.promotion.kept import fetch, missing
    from flows.promotion.registry import CHAMPION, Registry, now, whoami

    if not reason.strip():
        raise InkwellError("--reason is empty: say why, the next person will ask.")
    if checkout is not None and checkout.exists() and any(checkout.iterdir()):
        raise InkwellError(f"--checkout {checkout} is not empty: name a new folder.")
    state = workspace / ".inkwell"
    state.mkdir(exist_ok=True)
    with exclusive(state / "promotion.lock", wait=True):
        registry = Registry(workspace)
        champion = registry.holder(CHAMPION)
        if to is None:
            to = former_champion(registry.versions(), champion)
        version = registry.version(to)
        if champion and champion.number == version.number and checkout is None:
            raise InkwellError(f"version {to} is the champion already.")
        if EXPORT not in version.hashes:
            raise InkwellError(f"version {to} has no tag inkwell.dvc.{EXPORT}: it was not registered by flows.promote.")
        with tempfile.TemporaryDirectory(dir=state, prefix="rollback-") as name:
            fetch(workspace, {EXPORT: version.hashes[EXPORT]}, Path(name))
            manifest = read_manifest(Path(name) / EXPORT)
            whole = intact(Path(name) / EXPORT, manifest)
            if not whole.holds:
                raise InkwellError(f"the files of version {to} are not those that were registered: {whole.told}.")
            if {str(entry["file"]): str(entry["sha256"]) for entry in manifest["files"]} != version.files:
                raise InkwellError(f"the manifest of version {to} names other files or hashes than the registry.")
            if checkout is not None:
                with atomic_folder(checkout) as folder:
                    shutil.copytree(Path(name) / EXPORT, folder, dirs_exist_ok=True)
        before = champion.number if champion else ""
        if before != version.number:
            lost = missing(workspace, {path: value for path, value in version.hashes.items() if path != EXPORT})
            if lost:
                print(f"rollback: {', '.join(lost)} of version {to} can no longer be had; later challengers cannot be compared with it.", file=sys.stderr)  # fmt: skip
            by = by or whoami()
            told_now = {"at": now(), "by": by, "reason": reason, "from": before or None, "to": version.number}
            with tempfile.TemporaryDirectory(dir=state) as name:
                path = Path(name) / "rollback.json"
                path.write_text(json.dumps({**told_now, "files": version.files}, ensure_ascii=False, indent=1) + "\n")
                run = registry.record("rollback", [path], {"inkwell.version": version.number}, {})
            why, evidence = f"rollback from version {before or 'none'}: {reason}", f"runs:/{run}/rollback.json"
            registry.crown(version, by, why, evidence, withdraw=reason)
    return version.number, before


def former_champion(versions: Sequence[Version], champion: Version | None) -> str:
    """The version that was champion last before `champion`, by the times in the tags."""
    from flows.promotion.registry import DETHRONED, PROMOTION

    crowned = champion.told(PROMOTION).get("at") if champion else None
    earlier = []
    for version in versions:
        if champion and version.number == champion.number:
            continue
        at = version.told(DETHRONED).get("at")
        if not at:
            at = version.told(PROMOTION).get("at")
            # Killed while it was crowned: the tag came before the alias, so that it was never the champion.
            if not at or (crowned and at > crowned):
                continue
        earlier.append((at, int(version.number)))
    if not earlier:
        raise InkwellError("no other version was ever the champion: name one with --to.")
    return str(max(earlier)[1])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.rollback", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--to", metavar="VERSION", help="version of the registered model (default: the champion before)"
    )
    parser.add_argument("--reason", required=True, help="why; it stands in the registry")
    parser.add_argument("--by", help="who (default: INKWELL_BY, git's user.name, the user)")
    parser.add_argument("--checkout", type=Path, metavar="FOLDER", help="also put the exported files there")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    arguments = parser.parse_args(argv)
    try:
        number, before = roll_back(
            arguments.workspace, arguments.to, arguments.reason, arguments.by, arguments.checkout
        )
        said = f"version {number} is the champion" + (f" in place of version {before}" if before != number else "")
        print(f"{said}." + (f" Its files: {arguments.checkout}" if arguments.checkout else ""))
        if before != number:
            from flows.notify import tell

            tell(arguments.workspace, "rolled_back", f"{said}: {arguments.reason}")
    except InkwellError as error:
        print(f"rollback: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rollback: interrupted; look who is the champion now, and name the version with --to.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
