"""How much memory there is to train in: a machine's is shared by its processes, a card's is its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from components.machine.memory import available_memory, device_memory


def test_processes_of_a_machine_share_its_memory() -> None:
    whole = available_memory()
    assert whole > 2**28
    assert device_memory("cpu") == whole
    assert device_memory("cpu", 4) == whole / 4


def test_a_card_has_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has one; the machine's memory says nothing of it."""
    cards = {0: SimpleNamespace(total_memory=8 * 2**30), 1: SimpleNamespace(total_memory=24 * 2**30)}
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", cards.__getitem__)
    assert device_memory("cuda") == device_memory("cuda", 8) == 24 * 2**30
