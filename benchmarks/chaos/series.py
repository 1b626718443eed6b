"""All trials of a chaos: what they need is asked first, what is finished is kept, and what became of them is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.parts import Parts
from components.errors import InkwellError

# What the outcome of a trial depends on: with other code it is run again.
CODE = ("flows", "components", "conf", "dvc.yaml", "benchmarks/chaos")
_LOST = "lost"


def check(kinds: Sequence[str], folder: Path) -> None:
    """What the faults need and this machine may lack: InkwellError now, and not when hours have passed. `folder`: where the trials happen."""
    from benchmarks.chaos.services import check_reachable, initdb

    if "database" in kinds:
        initdb()
        folder.mkdir(parents=True, exist_ok=True)
        check_reachable(folder)
    if "s3" in kinds and not (find_spec("moto") and find_spec("boto3")):
        raise InkwellError(
            "moto is not installed: `pip install -r requirements-dev.lock`, or leave the fault `s3` out (--faults)."
        )


def forget(parts: Parts, again: Sequence[str]) -> None:
    """Forget finished trials by name ("run-017"), or all that are lost ("lost"); InkwellError for one that is not finished."""
    finished = parts.names("run-*")
    lost = [name for name in finished if parts.read(name)["lost"]]
    for name in again:
        if name != _LOST and name not in finished:
            raise InkwellError(
                f"--again {name}: there is no such finished run with these seed, faults and code; name one such as run-017, or lost."
            )
    for name in {*again} - {_LOST} | ({*lost} if _LOST in again else set()):
        parts.forget(name)


def chaos(parts: Parts, folder: Path, runs: int, seed: int, kinds: Sequence[str], smoke_every: int) -> dict[str, Any]:
    """All trials, those of earlier processes counted; prints a line a trial.

    `chaos_runs` counts those in which something broke, `chaos_missed` those in which nothing did, however often it was tried.
    """
    from benchmarks.chaos.grounds import Grounds
    from benchmarks.chaos.trials import run_trial, trials

    found: list[Mapping[str, Any]] = []
    with Grounds(folder / "chaos") as grounds:
        for trial in trials(runs, seed, kinds, smoke_every):
            if not parts.has(trial.name):
                size = "smoke" if trial.smoke else "tiny"
                reference = parts.done(f"reference-{size}", partial(grounds.undisturbed, trial.smoke))
                print(f"  {trial.name}: {trial.fault}", flush=True)
                outcome = parts.done(trial.name, partial(run_trial, grounds, trial, reference))
            else:
                outcome = parts.read(trial.name)
            found.append(outcome)
            ended = "LOST" if outcome["lost"] else "finished" if outcome["struck"] else "nothing broke"
            again = f", drawn {len(outcome['missed']) + 1} times" if outcome["missed"] else ""
            print(
                f"  {trial.name}: {trial.fault}, {ended} in {outcome['seconds']:.0f} s{again}; {'; '.join(outcome['story'])}",
                flush=True,
            )
            for why in outcome["lost"]:
                print(f"  {trial.name} ({trial.fault}) is lost: {why}", flush=True)
    # One that is lost although nothing was broken is lost all the same.
    counted = [outcome for outcome in found if outcome["struck"] or outcome["lost"]]
    return {
        "chaos_runs": len(counted),
        "chaos_smoke_runs": sum(outcome["size"] == "smoke" for outcome in counted),
        "chaos_lost": sum(bool(outcome["lost"]) for outcome in counted),
        "chaos_missed": len(found) - len(counted),
        "chaos_seconds": round(sum(outcome["seconds"] for outcome in found), 1),
    }
