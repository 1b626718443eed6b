"""What holds on a machine for any model: gains of number formats and libraries, timed once and remembered."""

from __future__ import annotations

from collections.abc import Mapping

from components.machine import precision as formats
from components.machine.cores import available_cores


def machine_facts(device: str) -> dict[str, float]:
    """What does not depend on the model, measured once a machine; two or three seconds. Nothing for other devices than processors.

    onednn, bf16: gains of products, see `components.machine.precision`; rate: operations a second of those that pay; allocator: the
    gain where memory is fresh, see `components.machine.allocator`, 0 where there is none. What is measured while others keep the
    machine busy is used by this process and measured anew by the next.
    """
    if device != "cpu":
        return {}
    import torch

    from components.machine.allocator import gain, remember_gain
    from components.machine.cache import machine_identity, recall, remember
    from components.machine.interference import interference

    identity = machine_identity()
    known = recall("machine", identity) or {}
    if all(isinstance(known.get(name), int | float) for name in ("onednn", "bf16", "rate", "allocator")):
        return known
    busy = interference(available_cores()).busy
    onednn = formats.onednn_gain()
    bf16 = formats.bf16_gain(onednn > formats.WORTH)
    with formats.float32_by_onednn(onednn > formats.WORTH):
        rate = formats.product_rate(torch.bfloat16 if bf16 > formats.WORTH else torch.float32)
    found = {"onednn": onednn, "bf16": bf16, "rate": rate, "allocator": gain() or 0.0}
    busy = busy or interference(available_cores()).busy  # it may have begun meanwhile
    remember("machine", identity, found, lasting=not busy)
    if not busy:
        remember_gain(found["allocator"])
    return found


def best_precision(device: str, facts: Mapping[str, float]) -> str:
    """The one that pays: on processors as measured, elsewhere as the kind of device has it."""
    if device != "cpu":
        return formats.accelerator_precision(device)
    return "bf16" if facts["bf16"] > formats.WORTH else "fp32"


def choose_bf16(wanted: str, device: str) -> bool:
    """Whether to multiply in bf16: as asked, else where it is truly faster; measured on a CPU, once a machine."""
    if wanted != "auto":
        return wanted == "bf16"
    return best_precision(device, machine_facts(device)) == "bf16"
