"""`dvc repro` with a headline a stage, the time left, and an end that says what there is now.

    python -m flows.run                          everything that is out of date
    python -m flows.run --workspace .smoke       in a workspace of its own
    python -m flows.run pretrain --force         anything else is handed to `dvc repro`

Standard error is left alone, so that progress bars reach the terminal; Ctrl-C and SIGTERM end all processes of the run.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from components.errors import InkwellError
from flows.orchestration.graph import Stage, last_seconds, read_stages
from flows.orchestration.repro import command as dvc_command
from flows.processes import Command, environment, terminating

_RUNNING = re.compile(r"^Running stage '([^']+)'")
_UNCHANGED = re.compile(r"^Stage '([^']+)' (?:didn't change|is cached)")


class Clock:
    """Seconds by stage, and how many are left of the whole."""

    def __init__(self, stages: Sequence[Stage], expected: dict[str, float]) -> None:
        self.names = [stage.name for stage in stages]
        self.expected = expected
        self.seconds: dict[str, float] = {}
        self.unchanged: list[str] = []
        self._current: tuple[str, float] | None = None

    def begin(self, name: str) -> None:
        """`name` runs now, and what ran before has ended."""
        self.end()
        self._current = (name, time.monotonic())

    def end(self) -> None:
        """What ran has ended."""
        if self._current:
            name, since = self._current
            self.seconds[name] = time.monotonic() - since
            self._current = None

    def left(self) -> float | None:
        """Seconds until the end, as far as earlier runs tell; None where one of the stages ahead is unknown.

        What is ahead is scaled by how much slower or faster than then this machine was so far.
        """
        ahead = [name for name in self.names if name not in self.seconds and name not in self.unchanged]
        if not ahead or any(name not in self.expected for name in ahead):
            return None
        then = sum(self.expected[name] for name in self.seconds if name in self.expected)
        now = sum(seconds for name, seconds in self.seconds.items() if name in self.expected)
        pace = now / then if then >= 5 else 1.0
        return pace * sum(self.expected[name] for name in ahead)


def headline(stage: Stage, clock: Clock) -> str:
    """ "[5/12] pretrain: what it does (about 14 min left in all)"."""
    place = clock.names.index(stage.name) + 1
    left = clock.left()
    return f"[{place}/{len(clock.names)}] {stage.name}: {stage.summary}" + (
        f" (about {spoken(left)} left in all)" if left else ""
    )


def spoken(seconds: float) -> str:
    """A duration for people: "40 s", "14 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def run(workspace: Path, arguments: Sequence[str]) -> int:
    """Run `dvc repro` with `arguments` in `workspace` and return its exit status."""
    stages = {stage.name: stage for stage in read_stages(workspace)}
    targets = [argument for argument in arguments if argument in stages]
    chosen = read_stages(workspace, targets) if targets else list(stages.values())
    clock = Clock(chosen, last_seconds(workspace))
    pipeline = uuid.uuid4().hex
    command = dvc_command("repro", *arguments)
    began = time.monotonic()
    status = 130
    with Command(command, workspace, environment(pipeline)) as repro:
        try:
            with terminating():
                for line in repro.lines():
                    if (match := _RUNNING.match(line)) and match[1] in stages:
                        clock.begin(match[1])
                        if match[1] not in clock.names:
                            clock.names.append(match[1])
                        print(f"\n{headline(stages[match[1]], clock)}", flush=True)
                    elif match := _UNCHANGED.match(line):
                        clock.end()
                        clock.unchanged.append(match[1])
                    else:
                        print(line, flush=True)
                status = repro.wait()
                clock.end()
        except KeyboardInterrupt:
            print("\nrun: interrupted; the same command goes on from here.", file=sys.stderr, flush=True)
    _record(workspace, pipeline, clock, stages, status)
    print("\n" + "\n".join(summary(workspace, clock, status, time.monotonic() - began)), flush=True)
    return status


def _record(workspace: Path, pipeline: str, clock: Clock, stages: dict[str, Stage], status: int) -> None:
    from flows.orchestration.record import record_pipeline

    unchanged = {name: stages[name].outputs for name in clock.unchanged if name in stages}
    record_pipeline(workspace, pipeline, ran=list(clock.seconds), unchanged=unchanged, succeeded=status == 0)


def summary(workspace: Path, clock: Clock, status: int, seconds: float) -> list[str]:
    """What the run did, where the report is, what the model writes and how to talk to it; never raises."""
    lines = []
    width = max((len(name) for name in clock.names), default=0)
    for name in clock.names:
        if name in clock.seconds:
            lines.append(f"  {name:<{width}}  {spoken(clock.seconds[name])}")
    if clock.unchanged:
        lines.append(f"  unchanged: {', '.join(clock.unchanged)}")
    if status:
        lines.append(
            f"The pipeline stopped after {spoken(seconds)} (status {status}); what is finished is kept, the same command goes on from there."
        )
        return lines
    lines.append(f"Done in {spoken(seconds)}.")
    for name, title in (
        ("index", "The report card"),
        ("data_card", "The data card"),
        ("corpus_map", "The map of the corpus"),
    ):
        page = workspace / "reports" / f"{name}.html"
        if page.exists():
            lines.append(f"{title}: {page}")
    written = written_by_the_model(workspace / "data" / "evaluation" / "generations.parquet")
    if written:
        lines += ["", "The model wrote:", *(f"    {line}" for line in written), ""]
    if (workspace / "models" / "export").exists():
        lines.append("Chat with it: make chat" + ("" if workspace == Path() else f" WORKSPACE={workspace}"))
    return lines


def written_by_the_model(path: Path, count: int = 3) -> list[str]:
    """The first `count` lines of the last model's first text that has as many; empty where there is none."""
    try:
        import pyarrow.parquet as pq

        rows = pq.read_table(path).select(["model", "text"]).to_pylist()
        models = {row["model"] for row in rows}
        model = next((name for name in ("aligned", "sft", "base") if name in models), None)
        texts = [
            [line for line in str(row["text"]).splitlines() if line.strip()]
            for row in rows
            if row["model"] == model or model is None
        ]
        longest = max(texts, key=lambda lines: min(len(lines), count), default=[])
        return longest[:count]
    except Exception:  # the run is done and good: its last words must not make it fail
        return []


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.run",
        description=(__doc__ or "").split("\n")[0],
        epilog="Everything else goes to `dvc repro`: stages, --force, --downstream, --dry, ...",
        allow_abbrev=False,
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the pipeline (default: this one)")
    known, rest = parser.parse_known_args(argv)
    try:
        return run(known.workspace, rest)
    except InkwellError as error:
        print(f"run: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
