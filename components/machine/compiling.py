"""Whether compiling a run's steps pays, which a machine learns from the runs that it has done."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from components.machine.choices import CALIBRATED

if TYPE_CHECKING:
    from components.machine.choices import Choices

_COMPILED_GAIN, _COMPILE_SECONDS = 1.4, 15.0  # before a machine has shown its own gain
_COMPILED_TOKENS = 500_000  # where the rate is not known


def achieved(choices: Choices, tokens_per_second: float) -> dict[str, float]:
    """Remember the rate that a whole run reached; the gain of compiling where it is known, for the run's metrics.

    The next run of this model on this machine decides about compiling by it.
    """
    from components.machine.cache import learn

    if not choices.identity or not tokens_per_second:
        return {}
    gain = learn(
        _compile_identity(choices),
        compiled=choices.compile,
        rate=tokens_per_second,
        calibrated=choices.tokens_per_second or None,
    )
    return {"gain_compile": round(gain, 4)} if gain else {}


def _compile_identity(choices: Choices) -> dict[str, Any]:
    return {**choices.identity, "chosen": {name: getattr(choices, name) for name in (*CALIBRATED, "processes")}}


def compiles(wanted: str, tokens: int, choices: Choices) -> bool:
    """`choose_compile` by what is known of this model on this machine."""
    from components.machine.cache import learnt_compile_gain

    gain = learnt_compile_gain(_compile_identity(choices)) if choices.identity else None
    return choose_compile(wanted, tokens, choices.tokens_per_second or None, gain)


def choose_compile(wanted: str, tokens: int, rate: float | None = None, gain: float | None = None) -> bool:
    """Whether to use torch.compile: as asked, else where a C++ compiler is found and the run wins the time back.

    rate: tokens a second of eager steps; gain: how many times as fast compiled ones were on this machine. Where nothing
    is known, half a million tokens are enough: compiling costs about ten seconds on two cores, a few once they are cached.
    """
    compiler = next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), None)
    if wanted == "on" and compiler is None:
        raise InkwellError("machine.compile = 'on' needs a C++ compiler (g++ or clang++): install one or use auto.")
    if wanted != "auto":
        return wanted == "on"
    if compiler is None:
        return False
    if rate is None:
        return tokens >= _COMPILED_TOKENS
    return tokens / rate * (1 - 1 / (gain or _COMPILED_GAIN)) > _COMPILE_SECONDS
