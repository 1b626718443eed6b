"""Which device trains, and what it is refused: two things that exclude each other, or that it does not have.

CUDA and MPS: untested on this hardware.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.machine import precision as formats

if TYPE_CHECKING:
    from components.configuration import Machine


def check(machine: Machine, device: str) -> None:
    """Raise InkwellError where `machine` asks for what `device` does not have, or for two things that exclude each other."""
    formats.check_precision(machine.precision, device)
    fused_modules(machine)
    if machine.attention == "flash":
        precision = machine.precision if machine.precision != "auto" else None
        reason = flash_refusal(device, precision or (formats.accelerator_precision(device) if device != "cpu" else ""))
        if reason:
            raise InkwellError(f"machine.attention = 'flash' {reason}: use sdpa or auto.")


def fused_modules(machine: Machine) -> str:
    """`machine.fused`; off where it is open and something is asked for that only the model's own modules have.

    Raises InkwellError where it is on even so: fused modules attend in their own way, and modules of float8 are the stock
    ones in another dress, which fused ones would go past.
    """
    asked = f"machine.attention = {machine.attention!r}" if machine.attention != "auto" else ""
    asked = "machine.precision = 'fp8'" if machine.precision == "fp8" else asked
    if asked and machine.fused == "on":
        raise InkwellError(f"machine.fused = 'on': {asked} is for the model's own modules; set machine.fused to auto.")
    return "off" if asked else machine.fused


def flash_refusal(device: str, precision: str) -> str | None:
    """Why flash attention cannot be had with `precision` on `device`, as the rest of a sentence; None where it can."""
    if device != "cuda":
        return f"needs machine.device = cuda (it is {device!r} here)"
    if precision not in ("bf16", "fp16"):
        return f"works in bf16 and fp16 (machine.precision is {precision!r} here)"
    if importlib.util.find_spec("flash_attn") is None:
        return "needs the package flash-attn, which is not installed"
    return None


def choose_device(wanted: str) -> str:
    """ "cpu", "cuda" or "mps"; "auto" takes an accelerator where there is one. cuda, mps: untested on this hardware."""
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        raise InkwellError(f"machine.device = {wanted!r}: PyTorch sees no such device here; use cpu or auto.")
    return wanted
