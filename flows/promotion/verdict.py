"""Whether a challenger is better beyond the noise, and worse at nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flows.promotion.decision import Check, Task

if TYPE_CHECKING:
    from components.configuration import Promotion
    from flows.promotion.judging import Pairs

_SHARE = 0.95  # of the intervals that are shown


def judge(pairs: Mapping[str, Pairs], promotion: Promotion, seed: int) -> list[Task]:
    """Each task with its gain, interval and p value; Holm's correction is over the tasks that enough documents speak for."""
    from flows.promotion.judging import BITS
    from flows.promotion.paired import compare, holm

    found = {}
    for task, one in pairs.items():
        better = [b - a for a, b in zip(one.champion, one.challenger, strict=True)]
        found[task] = compare(better, one.weights, promotion.resamples, seed, _SHARE)
    judged = [task for task, one in pairs.items() if one.documents >= promotion.minimum_documents]
    adjusted = holm({task: found[task].p for task in judged})
    sign = {task: -1 if task == BITS else 1 for task in pairs}
    return [
        Task(
            task=task,
            champion=sign[task] * one.figure("champion"),
            challenger=sign[task] * one.figure("challenger"),
            gain=found[task].gain,
            low=found[task].low,
            high=found[task].high,
            p=found[task].p,
            adjusted=adjusted.get(task, 1.0),
            documents=one.documents,
            differing=found[task].differing,
            bound=promotion.regressions[task],
            judged=task in judged,
        )
        for task, one in sorted(pairs.items())
    ]


def verdict(tasks: Sequence[Task], checks: Sequence[Check], promotion: Promotion) -> tuple[bool, str]:
    """(promoted, why in one sentence): every check holds, no task regressed past its bound, and one is better for sure."""
    failed = [check for check in checks if not check.holds]
    if failed:
        return False, failures(failed)
    if not any(task.judged for task in tasks):
        most = max((task.documents for task in tasks), default=0)
        return False, (
            f"both answered about {most} of the same documents, {promotion.minimum_documents} are needed to judge (promotion.minimum_documents)"
        )
    regressed = [task for task in tasks if task.regressed()]
    if regressed:
        told = ", ".join(f"{task.task} by {-task.gain:.4g} (at most {task.bound:g})" for task in regressed)
        return False, f"it is worse past the bound at {told}"
    better = [task for task in tasks if task.judged and task.gain > 0 and task.adjusted <= promotion.error_rate]
    if not better:
        best = min((task for task in tasks if task.judged), key=lambda task: task.adjusted)
        return (
            False,
            f"it is better at no task beyond the noise (nearest: {best.task}, p = {best.adjusted:.2g} after Holm)",
        )
    told = ", ".join(
        f"{task.task} by {task.gain:.4g} (95 % interval {task.low:.4g} to {task.high:.4g}, p = {task.adjusted:.2g})"
        for task in better
    )
    return True, f"it is better at {told}, and worse past no bound"


def failures(failed: Sequence[Check]) -> str:
    """What did not hold, in a sentence without its end."""
    return "; ".join(f"{check.name}: {check.told}" for check in failed)
