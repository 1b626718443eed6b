"""What a fault works with: the workspace of a trial, how the pipeline is started in it, and what is asked at the end."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.disk import SmallDisk
from benchmarks.chaos.faults import Moment, Strike
from benchmarks.chaos.grounds import Grounds, targets
from benchmarks.chaos.pipelines import Attempt, Pipeline
from benchmarks.chaos.recorded import faults_of_records, track
from benchmarks.chaos.soundness import orphans
from components.errors import InkwellError
from flows.processes import environment


@dataclass
class Scene:
    """One trial. `again` begins an attempt to finish; `checks` are asked at the end and answer with what is wrong."""

    grounds: Grounds
    workspace: Path
    smoke: bool
    moment: Moment
    rng: random.Random
    stack: ExitStack  # what the trial leaves behind in servers and files ends with it
    env: dict[str, str] = field(default_factory=environment)
    options: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    checks: list[Callable[[], list[str]]] = field(default_factory=list)
    begin: Callable[[], Attempt] | None = None  # how an attempt begins, where it is not from the command line
    disk: SmallDisk | None = None
    status: int | None = None  # of the disturbed run, once it has ended

    def again(self) -> Attempt:
        """Begin an attempt."""
        return self.begin() if self.begin else self.by_hand()

    def by_hand(self, limit: int | None = None) -> Pipeline:
        """Begin an attempt from the command line. `limit`: no file may grow beyond so many KiB."""
        return Pipeline(self.workspace, targets(self.smoke), self.env, self.options, limit)

    def ended(self, first: Attempt) -> int:
        """How the disturbed run ended, once it has; InkwellError when something of it goes on."""
        self.status = status = first.wait()
        self.story.append(f"the disturbed run ended with {status}: {last_words(first.said())}")
        left = orphans(self.workspace)
        if left:
            raise InkwellError(f"after the disturbed run (status {status}) still at work: {left[0][:200]}")
        return status

    def away(self, found: Strike, seconds: float) -> Strike:
        """Leave what was killed dead for a drawn time, `seconds` at most, while the pipeline works."""
        if not found.struck:
            return found
        drawn = self.rng.uniform(0, seconds)
        time.sleep(drawn)
        return Strike(True, f"{found.words}, away for {drawn:.0f} s")

    def stages(self) -> list[str]:
        """The stages of the pipeline."""
        from flows.orchestration.graph import read_stages

        return [stage.name for stage in read_stages(self.workspace, targets(self.smoke))]

    def tracked(
        self, uri: str | None = None, perhaps_twice: Collection[str] | None = None, perhaps_none: bool = False
    ) -> None:
        """Record the runs, by MLflow's server at `uri` or in a file of the workspace, and hold the records against the stages at the end.

        By default each stage may have finished twice: who dies with a pipeline may be any, and may have told its end before.
        """
        experiment = f"chaos-{uuid.uuid4().hex}"  # a trial may be run again against the same server
        track(self.workspace, experiment, uri)
        self.env["INKWELL_TRACKING"] = "on"
        stages = self.stages()
        twice = stages if perhaps_twice is None else perhaps_twice
        self.checks.append(
            lambda: faults_of_records(self.workspace, self.env, experiment, stages, uri, twice, perhaps_none)
        )


def last_words(said: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without a word"
