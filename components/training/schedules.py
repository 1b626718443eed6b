"""Learning-rate schedules: factors of the peak rate by step."""

from __future__ import annotations


def warmup_stable_decay(step: int, steps: int, warmup: int, decay_fraction: float) -> float:
    """Factor of the peak learning rate at `step` of `steps`: linear rise, plateau, linear fall to zero (MiniCPM)."""
    rise = min(1.0, (step + 1) / (warmup + 1))
    decay_steps = decay_fraction * steps
    fall = min(1.0, (steps - step) / decay_steps) if decay_steps else 1.0
    return min(rise, fall)
