"""Learning-rate schedules: factors of the peak rate, pure functions of how much of the run's rows has been seen.

Progress is a share of the rows, not a number of steps: a run whose batch changes in its middle stays on its course.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

COSINE_FLOOR = 0.1  # the cosine falls to a tenth of the peak (Hoffmann et al. 2022)


@dataclass(frozen=True)
class Schedule:
    """A linear rise over the share `warmup` of the run, then one of four courses.

    warmup_stable_decay: plateau, then linear to zero over the last `decay` (a share; Hu et al. 2024, MiniCPM).
    cosine: half a wave to a tenth of the peak (Loshchilov and Hutter 2017). linear: straight to zero. noam: with the inverse
    square root of the progress (Vaswani et al. 2017), here scaled so that its peak is the learning rate itself.
    """

    course: Literal["warmup_stable_decay", "cosine", "linear", "noam"]
    warmup: float
    decay: float = 0.0

    def factor(self, progress: float, step: float) -> float:
        """Factor of the peak rate for a step that begins at `progress` (0 to 1) and is itself `step` of the run long.

        The first step of a rise is one step above zero, and the last step of a fall one step above its end.
        """
        rise = min(1.0, (progress + step) / (self.warmup + step))
        after = (1.0 - progress) / (1.0 - self.warmup) if self.warmup < 1 else 1.0  # falls from 1 to 0 after the rise
        match self.course:
            case "warmup_stable_decay":
                return min(rise, 1.0, (1.0 - progress) / self.decay) if self.decay else rise
            case "linear":
                return min(rise, after)
            case "cosine":
                wave = 0.5 * (1.0 - math.cos(math.pi * min(1.0, after)))
                return min(rise, COSINE_FLOOR + (1.0 - COSINE_FLOOR) * wave)
            case "noam":
                return min(rise, math.sqrt((self.warmup + step) / (progress + step)))
