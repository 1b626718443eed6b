"""A training process starts itself again with glibc's settings, unless somebody wants otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from components.machine import allocator
from tests.processes import ROOT

KEEP = {"MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_"}
glibc = pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's settings")


class RestartError(Exception):
    """What takes the place of a new start: (arguments, environment)."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process without any allocator settings, in a folder of its own, that raises instead of starting anew."""

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise RestartError(arguments[1:], environment)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.chdir(tmp_path)
    for name in (*KEEP, "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["pretrain", "--set", "seed=3"])
    return monkeypatch


@glibc
def test_the_same_command_starts_anew_with_the_settings(restart: pytest.MonkeyPatch) -> None:
    with pytest.raises(RestartError) as caught:
        allocator.keep_large_blocks("components.pretrain")
    arguments, environment = caught.value.args
    assert arguments == ["-m", "components.pretrain", "--set", "seed=3"]
    assert environment.keys() >= KEEP
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    for name, value in environment.items():
        restart.setenv(name, value)
    allocator.keep_large_blocks("components.pretrain")  # once is enough
    assert allocator.in_use() == "glibc"


@glibc
@pytest.mark.parametrize("arguments", [["--help"], ["--parameters"]])
def test_a_question_about_the_step_needs_no_allocator(restart: pytest.MonkeyPatch, arguments: list[str]) -> None:
    restart.setattr(sys, "argv", ["pretrain", *arguments])
    allocator.keep_large_blocks("components.pretrain")


@glibc
@pytest.mark.parametrize(
    ("arguments", "file", "starts"),
    [
        ([], "machine: {allocator: off}", False),
        ([], 'machine: {allocator: "off"}', False),
        ([], "machine: {allocator: glibc}", True),
        ([], "machine: {}", True),
        ([], "machine: [", True),  # told when the configuration is read
        (["--set", "machine.allocator=off"], "machine: {allocator: glibc}", False),
        (["--set=machine.allocator=off"], "", False),
        (["--set", "machine.allocator=glibc"], "machine: {allocator: off}", True),
        (["--params", "other.yaml"], "machine: {allocator: off}", True),
    ],
)
def test_the_parameter_decides(
    restart: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], file: str, starts: bool
) -> None:
    (tmp_path / "params.yaml").write_text(file, encoding="utf-8")
    restart.setattr(sys, "argv", ["pretrain", *arguments])
    if starts:
        with pytest.raises(RestartError):
            allocator.keep_large_blocks("components.pretrain")
    else:
        allocator.keep_large_blocks("components.pretrain")


@glibc
@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"LD_PRELOAD": "/usr/lib/libtcmalloc_minimal.so.4"}, "tcmalloc"),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, "jemalloc"),
        ({"MALLOC_TOP_PAD_": "1000"}, "off"),
    ],
)
def test_what_a_person_set_up_stays(restart: pytest.MonkeyPatch, environment: dict[str, str], name: str) -> None:
    for variable, value in environment.items():
        restart.setenv(variable, value)
    allocator.keep_large_blocks("components.pretrain")
    assert allocator.in_use() == name
    restart.setattr(sys, "argv", ["pretrain", "--set", "machine.allocator=glibc"])
    with pytest.raises(RestartError):  # unless it is asked for
        allocator.keep_large_blocks("components.pretrain")


@glibc
def test_settings_that_were_slower_here_are_left_out(restart: pytest.MonkeyPatch) -> None:
    assert allocator.remembered_gain() is None
    allocator.remember_gain(0.0)  # it could not be measured
    assert allocator.remembered_gain() is None
    allocator.remember_gain(0.9)
    assert allocator.remembered_gain() == 0.9
    allocator.keep_large_blocks("components.pretrain")
    restart.setattr(sys, "argv", ["pretrain", "--set", "machine.allocator=glibc"])
    with pytest.raises(RestartError):  # unless they are asked for
        allocator.keep_large_blocks("components.pretrain")
    restart.setattr(sys, "argv", ["pretrain"])
    allocator.remember_gain(1.1)
    with pytest.raises(RestartError):
        allocator.keep_large_blocks("components.pretrain")


@glibc
def test_what_they_gained_is_known_before_pytorch_is_imported(tmp_path: Path) -> None:
    allocator.remember_gain(0.9)
    code = (
        "import sys\nfrom components.machine import allocator\n"
        "print(allocator.settings_for('auto', {}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{} False"


@glibc
def test_tunables_of_a_person_stay() -> None:
    assert set(allocator.settings_for("auto", {"GLIBC_TUNABLES": "glibc.malloc.check=3"})) == KEEP


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.settings_for("glibc", {}) == {}
    assert allocator.gain() is None


@glibc
def test_the_gain_is_measured_in_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    real = allocator._child_seconds

    def watched(environment: dict[str, str]) -> float | None:
        seen.append(KEEP & environment.keys())
        return real(environment)

    monkeypatch.setattr(allocator, "_child_seconds", watched)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1000")  # does not reach the plain one
    gain = allocator.gain()
    assert seen == [set(), KEEP]
    assert gain is not None
    assert gain > 0
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert allocator.gain() is None
