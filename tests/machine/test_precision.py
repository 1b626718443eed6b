"""Where bfloat16 is the hardware's own, and that Muon keeps out of it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from components.configuration import Machine
from components.machine import precision
from components.machine.choices import Choices
from components.machine.hardware import decide


def _processor(monkeypatch: pytest.MonkeyPatch, *abilities: str) -> None:
    """A processor that has these and no others."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True} | dict.fromkeys(abilities, True))


@pytest.mark.parametrize(
    ("abilities", "wanted"),
    [((), False), (("avx512_f",), False), (("amx_tile",), False), (("avx512_bf16",), True), (("amx_bf16",), True)],
)
def test_processors_with_products_in_bf16(
    monkeypatch: pytest.MonkeyPatch, abilities: tuple[str, ...], wanted: bool
) -> None:
    _processor(monkeypatch, *abilities)
    assert precision.has_bf16("cpu") is wanted


def test_apples_cards_have_none() -> None:
    assert not precision.has_bf16("mps")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_muon_follows_the_hardware_and_a_run_keeps_to_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))
    rates = {torch.bfloat16: 3e11, torch.float32: 1e11}
    monkeypatch.setattr(precision, "product_rate", lambda dtype, *_: rates[dtype])
    monkeypatch.setattr("components.machine.allocator.gain", lambda: 2.0)
    machine = Machine.model_validate({"precision": wanted, "threads": 1, "compile": "off", "calibrate": False})

    def chosen(work: str) -> Choices:
        (tmp_path / work).mkdir(exist_ok=True)
        return decide(machine, 1000, tmp_path / work)

    _processor(monkeypatch, "avx512_bf16")
    assert chosen("native").muon_bf16
    _processor(monkeypatch)
    emulated = chosen("emulated")
    assert (emulated.muon_bf16, emulated.precision) == (False, wanted)
    _processor(monkeypatch, "avx512_bf16")
    assert not chosen("emulated").muon_bf16
    file = tmp_path / "emulated" / "choices.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    del saved["choices"]["muon_bf16"]  # as runs wrote it that began before
    file.write_text(json.dumps(saved), encoding="utf-8")
    _processor(monkeypatch)
    assert chosen("emulated").muon_bf16
