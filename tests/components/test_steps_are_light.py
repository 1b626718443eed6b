"""Steps answer `--help` at once, import nothing heavy, and keep to their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STEPS = sorted(p.parent.name for p in (ROOT / "components").glob("*/__main__.py"))
SHARED = {p.name for p in (ROOT / "components").iterdir() if p.name not in STEPS}
HEAVY = (
    "torch",
    "mlflow",
    "prefect",
    "great_expectations",
    "lightning",
    "transformers",
    "pandas",
    "pydantic",
    "pyarrow",
)


@pytest.mark.parametrize("step", STEPS)
def test_importing_a_command_line_imports_nothing_heavy(step: str) -> None:
    code = f"import sys, components.{step}.__main__; print([m for m in {HEAVY!r} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize("step", STEPS)
def test_help_explains_the_step(step: str) -> None:
    command = [sys.executable, "-m", f"components.{step}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(done.stdout) > 200


def _imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("step", STEPS)
def test_a_step_imports_no_other_step_and_no_orchestrator(step: str) -> None:
    for file in (ROOT / "components" / step).rglob("*.py"):
        for name in _imports(file):
            assert name.split(".")[0] not in ("flows", "prefect"), f"{file}: {name}"
            parts = name.split(".")
            if parts[0] == "components" and len(parts) > 1:
                assert parts[1] not in STEPS or parts[1] == step, f"{file}: {name}"


# Packages that a step depends on module by module: a change of what it does not use must not run it again.
ROOMS = {"chat", "corpus", "gguf", "machine", "model", "vocabulary"}
_DATA = {
    "chat/prompts.py": "chat/wording",
    "corpus/policy.py": "corpus/policies",
    "corpus/language_facts.py": "corpus/languages",
    "pages.py": "pages.css",
}  # files that a module reads rather than imports


# What every step goes through without its outcome depending on it: a change there must not retrain a model.
_AROUND = {"step", "launch", "tracking", "progress", "errors", "atomic", "configuration"}


def _shared(name: str) -> str | None:
    """The file or package below components/ that a dotted name stands in; None for what no step depends on."""
    parts = name.split(".")
    if parts[0] != "components" or len(parts) < 2 or parts[1] in {*STEPS, *_AROUND}:
        return None
    if parts[1] in ROOMS:
        module = f"{parts[1]}/{parts[2]}.py" if len(parts) > 2 else ""
    else:
        package = (ROOT / "components" / parts[1]).is_dir()
        module = parts[1] if package else f"{parts[1]}.py"
    return module if module and (ROOT / "components" / module).exists() else None


def reached(start: Path) -> set[str]:
    """Shared modules and packages below components/ that the files of `start` import, directly or not, and their data."""
    seen: set[str] = set()
    waiting = list(start.rglob("*.py"))
    while waiting:
        for shared in filter(None, map(_shared, _imports(waiting.pop()))):
            if shared not in seen:
                seen.add(shared)
                place = ROOT / "components" / shared
                waiting += place.rglob("*.py") if place.is_dir() else [place]
    return seen | {data for module, data in _DATA.items() if module in seen}


@pytest.mark.parametrize("stage", sorted(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]))
def test_a_stage_depends_on_the_code_that_it_imports(stage: str) -> None:
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    step = described["cmd"].split("components.")[1].split()[0]
    declared = {name for name in described["deps"] if name.startswith("components/")}
    needed = {f"components/{name}" for name in (step, *reached(ROOT / "components" / step))}
    assert needed <= declared, f"add to the deps of {stage} in dvc.yaml: {sorted(needed - declared)}"
    assert all((ROOT / name).exists() for name in declared), sorted(declared)


def test_tag_depends_on_all_of_its_parameters_but_where_the_work_is_done() -> None:
    from components.configuration import Tag

    declared = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["tag"]["params"])
    wanted = {f"tag.{name}" for name in Tag.model_fields} - {"tag.executor", "tag.workers"}
    assert declared == wanted | {"seed", "language"}
