"""How the tests find, read and check what stands below infra/."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE = INFRA / "compose.yaml"

# ${NAME}, ${NAME:-default} and ${NAME:?message}, as Compose writes them; a default may hold further ones
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^${}]*))?\}")


def missing(name: str) -> NoReturn:
    """What a test needs is not installed: it is skipped, and in CI (.ci/run) it fails, so that nothing passes for tested that was not."""
    if os.environ.get("INKWELL_CI"):
        pytest.fail(f"{name} is not installed, and CI does not do without it", pytrace=False)
    pytest.skip(f"{name} is not installed")


def package(name: str) -> ModuleType:
    """An imported package; where there is none, as `missing` says."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        missing(name)


def installed(name: str) -> str | None:
    """The path of a linter or server, if there is one."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
    places += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return shutil.which(name, path=os.pathsep.join(places))


def tool(name: str) -> str:
    """The path of a linter or server; where there is none, as `missing` says."""
    return installed(name) or missing(name)


def check(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a linter in the project's folder; the test fails with what it says."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def variables(text: str) -> dict[str, set[str]]:
    """The variables that a file asks for, each with the ways in which it does: "?" required, "-" with a default, "" bare."""
    found: dict[str, set[str]] = {}
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for match in VARIABLE.finditer("\n".join(lines)):
        found.setdefault(match["name"], set()).add(match["how"] or "")
    return found


def example() -> dict[str, str]:
    """The names and values of infra/.env.example."""
    return dotenv((INFRA / ".env.example").read_text(encoding="utf-8"))


def dotenv(text: str) -> dict[str, str]:
    """A file of `NAME=value` lines."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = (line.split("=", 1) for line in lines)
    return {name: value.strip('"') for name, value in pairs}


def filled() -> dict[str, str]:
    """The example with something in every secret."""
    return {name: value or "0123456789abcdef" for name, value in example().items()}


def interpolated(values: Mapping[str, str]) -> dict[str, Any]:
    """compose.yaml as Compose would see it; raises LookupError where a required variable is missing or empty."""

    def value(match: re.Match[str]) -> str:
        name, how, rest = match["name"], match["how"], match["rest"] or ""
        if values.get(name):
            return values[name]
        if how == "-":
            return rest
        raise LookupError(f"{name}: {rest}")

    document: dict[str, Any] = yaml.safe_load(VARIABLE.sub(value, COMPOSE.read_text(encoding="utf-8")))
    return document


def services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml, with the example's values."""
    found: dict[str, dict[str, Any]] = interpolated(filled())["services"]
    return found


def files(*patterns: str) -> list[Path]:
    """Files below infra/, without what an editor or Python leaves there."""
    found = {path for pattern in patterns for path in INFRA.rglob(pattern)}
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts and path.name != ".env")
