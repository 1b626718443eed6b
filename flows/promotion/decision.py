"""What was decided about a challenger, with everything that led there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing that has to hold besides being better: a gate, a hash, a size, a speed."""

    name: str
    holds: bool
    told: str


@dataclass(frozen=True)
class Task:
    """One task of the comparison; figures are means over the shared questions, for bits as they are usually told."""

    task: str
    champion: float
    challenger: float
    gain: float
    low: float
    high: float
    p: float
    adjusted: float
    documents: int
    differing: int
    bound: float
    judged: bool

    def regressed(self) -> bool:
        """Whether the challenger is worse by more than its bound."""
        return self.judged and self.gain < -self.bound


@dataclass
class Decision:
    """Whether the challenger was promoted, why, and everything that led there."""

    promoted: bool
    reason: str
    by: str
    at: str
    challenger: dict[str, Any]
    champion: dict[str, Any] | None
    checks: list[Check] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    held_out: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    pages: Path | None = None
    run: str = ""

    def described(self) -> dict[str, Any]:
        """As JSON."""
        values = asdict(self)
        values.pop("pages")
        return {"format": 1, "decision": "promoted" if self.promoted else "kept", **values}


def sentence(decision: Decision, name: str = "") -> str:
    """What became of it, in one sentence."""
    number = decision.challenger["version"]
    which = f"version {number}" if number else "the challenger"
    if decision.promoted:
        instead = f" in place of version {decision.champion['version']}" if decision.champion else ""
        return f"{name}{which} is the champion{instead}: {decision.reason}."
    stays = (
        f"version {decision.champion['version']} stays the champion"
        if decision.champion
        else f"{which} is not promoted"
    )
    return f"{name}{stays}: {decision.reason}."
