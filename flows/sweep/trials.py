"""The trials of a sweep: which values are tried, what became of each, and which comes next.

What is finished stands in DVC's experiments and, with what failed, in `.inkwell/sweeps/<name>/`, a file a trial. A trial's
name comes from its values, the commit and what was changed since, so that the same command finds it again and a changed
pipeline begins anew.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from flows.revisions import Revision, experiments, head, state

Values = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones where both bounds and the step are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether it has integers only."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step) if value is not None)


Space = dict[str, "Range | list[Any]"]


@dataclass
class Trial:
    """One point of the space. `state` is "finished" or "failed", "" for one that is still to run."""

    name: str
    number: int
    values: Values
    state: str = ""
    objective: float | None = None
    seconds: float = 0.0
    commit: str = ""
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


def read_space(given: Sequence[str], file: Path | None) -> Space:
    """The space of `section.key=a,b,c` arguments and of a YAML file of lists and ranges; InkwellError for what is neither."""
    import yaml

    found: Space = {}
    if file is not None:
        try:
            written = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InkwellError(f"--space {file} cannot be read: {' '.join(str(error).split())}.") from error
        if not isinstance(written, dict):
            raise InkwellError(f"--space {file}: write `section.key: [a, b]` or `section.key: {{low: 1, high: 2}}`.")
        for key, values in written.items():
            found[str(key)] = _dimension(f"--space {file}: {key}", values)
    for argument in given:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise InkwellError(f"{argument}: write it as section.key=a,b,c.")
        try:
            found[key] = _dimension(argument, yaml.safe_load(f"[{text}]"))
        except yaml.YAMLError as error:
            raise InkwellError(f"{argument}: {' '.join(str(error).split())}; write it as section.key=a,b,c.") from error
    if not found:
        raise InkwellError("nothing to sweep over: give section.key=a,b,c or --space FILE.")
    return found


def _dimension(where: str, values: Any) -> Range | list[Any]:
    if isinstance(values, list) and values:
        return [value for place, value in enumerate(values) if value not in values[:place]]
    if isinstance(values, dict) and {"low", "high"} <= set(values) <= {"low", "high", "log", "step"}:
        bounds = [values["low"], values["high"]]
        if all(isinstance(bound, int | float) for bound in bounds) and bounds[0] < bounds[1]:
            if values.get("log") and (bounds[0] <= 0 or values.get("step")):
                raise InkwellError(f"{where}: a logarithmic range begins above 0 and has no step.")
            return Range(**values)
    raise InkwellError(
        f"{where}: write a list of values, or {{low: 0.001, high: 0.1, log: true}} (step: for whole steps)."
    )


@dataclass
class Plan:
    """A sweep: its space, what is wanted, and where its trials are kept."""

    folder: Path
    space: Space
    stage: str
    metric: str
    trials: int | None  # Optuna's; None: every combination
    seed: int
    maximize: bool
    name: str
    baseline: str
    state: str

    @classmethod
    def make(
        cls,
        folder: Path,
        space: Space,
        objective: str,
        *,
        trials: int | None,
        seed: int,
        maximize: bool = False,
        name: str | None = None,
    ) -> Plan:
        """Check everything that can be checked before a trial runs; InkwellError says what to mend."""
        from flows.orchestration.graph import read_stages
        from flows.sweep.checkout import changes, mend

        stage, _, metric = objective.partition(".")
        if not metric:
            raise InkwellError(
                f"--objective {objective}: write it as stage.metric, such as pretrain.val_bits_per_char."
            )
        mend(folder)
        baseline = head(folder)
        changes(folder)  # what keeps DVC from beginning is told before a trial does
        read_stages(folder, [stage])
        parameters = _other_parameters(folder, space)
        # params.yaml counts without what is tried: --apply must not make the trials new ones
        checkout = state(folder, [".", ":(exclude)params.yaml", ":(exclude)dvc.lock", ":(exclude)metrics"]) + parameters
        if trials is None and (ranges := [key for key, values in space.items() if isinstance(values, Range)]):
            raise InkwellError(
                f"{ranges[0]} is a range, which only --optuna can search: list its values, or add --optuna."
            )
        described = json.dumps(
            [
                {key: asdict(v) if isinstance(v, Range) else v for key, v in space.items()},
                objective,
                trials is None,
                seed,
            ]
        )
        name = name or f"sweep-{hashlib.sha256(described.encode()).hexdigest()[:6]}"
        if not _NAME.fullmatch(name):
            raise InkwellError(f"--name {name}: letters, digits, - and _ only; experiments are named after it.")
        return cls(folder, space, stage, metric, trials, seed, maximize, name, baseline, checkout)

    @property
    def place(self) -> Path:
        """Where trials, table and page are kept."""
        return self.folder / ".inkwell" / "sweeps" / self.name

    @property
    def objective(self) -> str:
        """stage.metric."""
        return f"{self.stage}.{self.metric}"

    def size(self) -> int:
        """How many trials there will be."""
        lists = [values for values in self.space.values() if isinstance(values, list)]
        return self.trials if self.trials is not None else math.prod(len(values) for values in lists)

    def trial(self, number: int, values: Values) -> Trial:
        """The trial of these values, with what became of it in an earlier run."""
        identity = hashlib.sha256(json.dumps([self.state, self.stage, values], sort_keys=True).encode()).hexdigest()
        name = f"{self.name}-{identity[:8]}"
        file = self.place / f"{name}.json"
        if file.exists():
            return Trial(**{**json.loads(file.read_text(encoding="utf-8")), "number": number})
        trial = Trial(name, number, values)
        # the experiment may stand though the sweep was killed before it could write that down
        commit = experiments(self.folder, self.baseline).get(name)
        if commit:
            self.finish(trial, commit)
        return trial

    def finish(self, trial: Trial, commit: str) -> None:
        """Read the figures of a trial's experiment and keep them."""
        written = Revision(self.folder, commit).read(f"metrics/{self.stage}.json")
        metrics = json.loads(written) if written else {}
        trial.commit, trial.metrics = commit, {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        value = trial.metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            known = ", ".join(trial.metrics) or "none"
            self.fail(trial, f"metrics/{self.stage}.json has no finite {self.metric!r} (it has {known})")
            return
        trial.state, trial.objective, trial.note = "finished", float(value), ""
        trial.seconds = trial.seconds or float(trial.metrics.get("seconds", 0.0))
        self._keep(trial)

    def fail(self, trial: Trial, note: str) -> None:
        """Keep why a trial failed."""
        trial.state, trial.note, trial.objective = "failed", note, None
        self._keep(trial)

    def _keep(self, trial: Trial) -> None:
        from components.atomic import atomic_file

        with atomic_file(self.place / f"{trial.name}.json") as temporary:
            temporary.write_text(json.dumps(asdict(trial), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The finished trial with the best objective; None where none is finished."""
        finished = [trial for trial in trials if trial.objective is not None]
        sign = -1 if self.maximize else 1
        return min(finished, key=lambda trial: sign * (trial.objective or 0.0), default=None)


def grid(plan: Plan) -> Iterator[Values]:
    """Every combination; the last parameter changes fastest."""
    lists = [values for values in plan.space.values() if isinstance(values, list)]
    for values in itertools.product(*lists):
        yield dict(zip(plan.space, values, strict=True))


def suggested(plan: Plan, number: int, known: Sequence[Trial]) -> Values:
    """What Optuna's TPE would try as trial `number`, from the trials so far.

    The choice is kept, so that a sweep that goes on asks for nothing twice; its seed is the sweep's and the number, so that
    trials one at a time are the same ones whether or not the sweep was killed. Trials that still run count as poor.
    """
    from components.atomic import atomic_file

    identity = hashlib.sha256(plan.state.encode()).hexdigest()[:8]
    kept = plan.place / f"asked-{identity}-{number:04}.json"
    if kept.exists():
        values: Values = json.loads(kept.read_text(encoding="utf-8"))
        return values
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=plan.seed * 100_003 + number, constant_liar=True, n_startup_trials=min(10, max(3, plan.size() // 4))
    )
    study = optuna.create_study(sampler=sampler, direction="maximize" if plan.maximize else "minimize")
    study.add_trials([_as_optuna(plan, trial) for trial in known])
    asked = study.ask(distributions(plan))
    values = {
        key: _choices(v)[asked.params[key]] if isinstance(v, list) else asked.params[key]
        for key, v in plan.space.items()
    }
    with atomic_file(kept) as temporary:
        temporary.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return values


def distributions(plan: Plan) -> dict[str, Any]:
    """The space as Optuna's distributions; choices are named by their text, for they may be lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for key, values in plan.space.items():
        if isinstance(values, list):
            found[key] = CategoricalDistribution(list(_choices(values)))
        elif values.whole:
            step = int(values.step or 1)
            high = int(values.low) + (int(values.high) - int(values.low)) // step * step
            found[key] = IntDistribution(int(values.low), high, log=values.log, step=step)
        else:
            found[key] = FloatDistribution(values.low, values.high, log=values.log, step=values.step)
    return found


def _choices(values: Sequence[Any]) -> dict[str, Any]:
    return {json.dumps(value, ensure_ascii=False): value for value in values}


def _as_optuna(plan: Plan, trial: Trial) -> Any:
    from optuna.trial import TrialState, create_trial

    states = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL, "": TrialState.RUNNING}
    shown = {
        key: json.dumps(trial.values[key], ensure_ascii=False) if isinstance(values, list) else trial.values[key]
        for key, values in plan.space.items()
    }
    return create_trial(
        state=states[trial.state], value=trial.objective, params=shown, distributions=distributions(plan)
    )


def importance(plan: Plan, trials: Sequence[Trial]) -> dict[str, float]:
    """The share of the objective's variance that each parameter explains (fANOVA, Hutter et al. 2014), most first.

    Empty where fewer than four trials are finished or no parameter varies among them.
    """
    finished = [trial for trial in trials if trial.objective is not None]
    varied = any(len({json.dumps(t.values[key]) for t in finished}) > 1 for key in plan.space)
    if len(finished) < 4 or not varied or len({trial.objective for trial in finished}) == 1:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if plan.maximize else "minimize")
    study.add_trials([_as_optuna(plan, trial) for trial in finished])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=plan.seed)
    found: Mapping[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _other_parameters(folder: Path, space: Space) -> str:
    """params.yaml without the parameters of `space`; InkwellError where it lacks one of them."""
    import yaml

    path = folder / "params.yaml"
    try:
        parameters = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InkwellError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    for key in space:
        at = parameters
        *parents, last = key.split(".")
        for part in parents:
            at = at.get(part) if isinstance(at, dict) else None
        if not isinstance(at, dict) or last not in at:
            raise InkwellError(f"{path} has no parameter {key!r}: docs/parameters.md lists all of them.")
        del at[last]
    return json.dumps(parameters, sort_keys=True, default=str)


def override(key: str, value: Any) -> str:
    """`key=value` as DVC's --set-param and this project's --set both read it."""
    return f"{key}={json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value}"


def apply(folder: Path, values: Values) -> None:
    """Write `values` into params.yaml, which keeps its explanations. Raises InkwellError where they do not fit together."""
    from components.atomic import atomic_file
    from components.configuration import load
    from flows.parameters import render

    path = folder / "params.yaml"
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    before = re.search(r"^# Written by `([^`]*)`", path.read_text(encoding="utf-8"), re.MULTILINE)
    command = " ".join([before[1] if before else "python -m flows.parameters", *overrides])
    text = render(load(path, overrides), command)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
