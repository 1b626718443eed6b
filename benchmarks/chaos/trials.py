"""One disturbed run: a fresh workspace, a fault, restarts until it is finished, and the comparison with the undisturbed one."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.disturbances import DISTURBANCES
from benchmarks.chaos.faults import pick
from benchmarks.chaos.grounds import Grounds, targets
from benchmarks.chaos.scene import Scene, last_words
from benchmarks.chaos.soundness import end_all_in, faults_of, orphans
from components.errors import InkwellError
from flows.orchestration.sentences import kind_and_words

RESTARTS = 3
DRAWS = 4


@dataclass(frozen=True)
class Trial:
    """Which run, what breaks, and on which graph; all of it follows from (seed, number)."""

    number: int
    fault: str
    smoke: bool
    seed: str

    @property
    def name(self) -> str:
        """Its name among the finished parts."""
        return f"run-{self.number:03}"


def trials(count: int, seed: int, kinds: Sequence[str], smoke_every: int) -> list[Trial]:
    """`count` of them: the faults in turns, so that each is met equally often, every `smoke_every`-th in smoke size (0: none)."""
    return [
        Trial(
            number,
            kinds[number % len(kinds)],
            bool(smoke_every) and number % smoke_every == smoke_every - 1,
            f"{seed}:{number}",
        )
        for number in range(count)
    ]


def run_trial(grounds: Grounds, trial: Trial, expected: Mapping[str, str]) -> dict[str, Any]:
    """Run it and tell what happened: `lost` names what was wrong at the end, empty when nothing was.

    A fault that broke nothing is drawn again, from the second time on right at a stage's beginning; `missed` tells of those draws. When none
    has struck, `struck` is False, and the run proves nothing; but a pipeline that fails by itself is lost. The workspace of a lost trial is kept
    for a look; that of a good one is removed.
    """
    began = time.monotonic()
    missed: list[str] = []
    while True:
        outcome = _drawn(grounds, trial, len(missed), expected)
        if outcome["struck"] or outcome["lost"] or len(missed) + 1 == DRAWS:
            break
        missed.append("; ".join(outcome["story"]))
    return {
        "fault": trial.fault,
        "size": "smoke" if trial.smoke else "tiny",
        **outcome,
        "missed": missed,
        "seconds": round(time.monotonic() - began, 1),
    }


def _drawn(grounds: Grounds, trial: Trial, draw: int, expected: Mapping[str, str]) -> dict[str, Any]:
    """One draw: {"struck", "story", "lost"}."""
    from flows.orchestration.graph import read_stages

    rng = random.Random(f"{trial.seed}:{draw}")
    workspace = grounds.fresh(trial.name, trial.smoke)
    _, address = grounds.server()
    stages = read_stages(workspace, targets(trial.smoke))
    moment = pick(rng, stages, grounds.seconds(trial.smoke), at_once=draw > 0)
    lost: list[str] = []
    struck = False
    with ExitStack() as stack:
        scene = Scene(grounds, workspace, trial.smoke, moment, rng, stack)
        scene.env["PREFECT_API_URL"] = address
        try:
            strike = DISTURBANCES[trial.fault](scene)
            struck = strike.struck
            scene.story.insert(0, strike.words)
            lost += _finish(scene, expected) if struck else _spared(scene, expected)
        except Exception as error:  # a server's, a client's: the trials behind it still run
            lost.append(str(error) if isinstance(error, InkwellError) else kind_and_words(error))
            end_all_in(workspace)  # it must not disturb the next one
        except BaseException:
            end_all_in(workspace)
            raise
        if lost and scene.disk:
            scene.disk.give_back()
    if not lost:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.with_suffix(".log").unlink(missing_ok=True)
    return {"struck": struck, "story": scene.story, "lost": lost}


def _finish(scene: Scene, expected: Mapping[str, str]) -> list[str]:
    """Start the pipeline again until it ends well, and look at what there is then: what is wrong, a sentence each."""
    wrong: list[str] = []
    for attempt in range(RESTARTS + 1):
        again = scene.again()
        status = again.wait()
        if status == 0:
            break
        scene.story.append(f"attempt {attempt + 1} after the fault ended with {status}: {last_words(again.said())}")
        wrong += [f"after status {status} still at work: {command[:200]}" for command in orphans(scene.workspace)]
    else:
        wrong.append(f"not finished after {RESTARTS + 1} attempts: {scene.story[-1]}")
    return wrong + _looked_at(scene, expected)


def _spared(scene: Scene, expected: Mapping[str, str]) -> list[str]:
    """What is wrong with a run in which nothing was broken, a sentence each: nothing of the fault excuses it."""
    if scene.status:
        return [f"nothing was broken, and {scene.story[-1]}"]
    return _looked_at(scene, expected)


def _looked_at(scene: Scene, expected: Mapping[str, str]) -> list[str]:
    wrong = faults_of(scene.workspace, expected, targets(scene.smoke))
    for check in scene.checks:
        wrong += check()
    return wrong
