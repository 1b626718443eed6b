"""Environment variables: each is one that its program knows, and the documentation says what it does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.infra.reading import COMPOSE, INFRA, ROOT, example, files, filled

ENVIRONMENTS = sorted((INFRA / "env").glob("*.env"))
# A name that something is assigned to: in YAML, JSON, a Dockerfile, a shell file, or a Helm `name:`
ASSIGNED = re.compile(
    r"""(?:^|[\s{"'(])(?:name:\s*)?((?:PREFECT|MLFLOW|INKWELL)_[A-Z0-9_]+)(?=["']?\s*[:=,}])""", re.MULTILINE
)


def assigned(prefix: str) -> set[str]:
    found: set[str] = set()
    for path in files("*"):
        if path.suffix in (".py", ".sh", ".sbatch") or path.name == ".env.example":
            continue
        text = "\n".join(
            line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
        )
        found |= {name for name in ASSIGNED.findall(text) if name.startswith(prefix)}
    # Those of .env.example are Compose's, not a program's.
    return found - (set(example()) - {"INKWELL_PARAMETERS"})


def prefect_settings() -> set[str]:
    from prefect.settings import Settings
    from pydantic import AliasChoices
    from pydantic_settings import BaseSettings

    found: set[str] = set()

    def walk(model: type[BaseSettings], prefix: str) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
                walk(field.annotation, field.annotation.model_config.get("env_prefix", prefix))
                continue
            alias = field.validation_alias
            if isinstance(alias, AliasChoices):
                found.update(choice.upper() for choice in alias.choices if isinstance(choice, str))
            found.add(f"{prefix}{name}".upper())

    walk(Settings, Settings.model_config.get("env_prefix", "PREFECT_"))
    return found


def test_prefect_knows_its_variables() -> None:
    used = assigned("PREFECT_")
    assert len(used) > 10
    assert used - prefect_settings() == set()


def test_mlflow_knows_its_variables() -> None:
    from mlflow import environment_variables

    used = assigned("MLFLOW_")
    assert len(used) > 8
    assert {name for name in used if not hasattr(environment_variables, name)} == set()


def test_inkwell_knows_its_variables() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("components", "flows", "infra")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sh")
    )
    assert {name for name in assigned("INKWELL_") if name not in code} == set()


@pytest.mark.parametrize("prefix", ["PREFECT_", "MLFLOW_", "INKWELL_", ""])
def test_documentation_has_them_all(prefix: str) -> None:
    page = (ROOT / "docs" / "infra.md").read_text(encoding="utf-8")
    switches = assigned(prefix) | {name for name in example() if name.startswith(prefix)}
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    assert {name for name in switches if f"`{name}`" not in table} == set()


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_files_can_be_read_by_a_shell(path: Path, tmp_path: Path) -> None:
    secrets = tmp_path / ".env"
    secrets.write_text("".join(f'{name}="{value}"\n' for name, value in filled().items()), encoding="utf-8")

    def read(*before: Path) -> subprocess.CompletedProcess[str]:
        script = "set -eua; " + "".join(f". {file}; " for file in (*before, path)) + "env"
        return subprocess.run(
            ["sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
        )

    done = read(secrets)
    assert done.returncode == 0, done.stderr
    assert "DO_NOT_TRACK=1" in done.stdout.splitlines()
    # Where a secret belongs in it, it says so instead of going on without.
    alone = read()
    assert (alone.returncode == 0) == (path.stem == "local"), alone.stderr


def test_example_can_be_read_by_a_shell() -> None:
    done = subprocess.run(
        ["sh", "-c", f'set -eua; . {INFRA / ".env.example"}; printf %s "$INKWELL_PARAMETERS"'],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == example()["INKWELL_PARAMETERS"]
    assert f":-{done.stdout}}}" in COMPOSE.read_text(encoding="utf-8")
