"""What every step is: a thin command line around a function of files.

A step's `__main__.py` declares a `Step` and hands it to `main`. `main` reads the arguments and parameters, runs the
function, writes `metrics/<step>.json` (seconds and peak memory beside the step's own figures), tells MLflow, and turns
an InkwellError into one sentence and exit status 2. Only the standard library is imported before the work starts.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration import Configuration, Section
    from components.tracking import Recorder

STATE = Path(".inkwell")  # git-ignored: checkpoints, spool, MLflow's database


@dataclass(frozen=True)
class Step:
    """One step: names, defaults of its files, and where its function is.

    `inputs` and `outputs` map an option's name to its default path; `function` is "package.module:name" of a
    `def run(context: Context) -> None`. `section` is the step's part of params.yaml, when it is not called `name`.
    """

    name: str
    summary: str
    function: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    section: str | None = None
    sections_read: Sequence[str] = ()  # further sections that change the outcome
    optional: Sequence[str] = ()  # inputs that the step can do without
    together: bool = False  # several processes may work on it (`machine.parallel`)


@dataclass
class Context:
    """What a running step may touch: its parameters, its files, its metrics and the recorder of its MLflow run."""

    step: Step
    configuration: Configuration
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    recorder: Recorder
    metrics: dict[str, float] = field(default_factory=dict)
    earlier_seconds: float = 0.0
    _finished: list[Path] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """The pipeline's seed."""
        return self.configuration.seed

    @property
    def parameters(self) -> Section:
        """The step's own section; a step narrows it by `isinstance` or through `configuration.<section>`."""
        return self.configuration.section(self.step.section or self.step.name)

    def fingerprint(self) -> str:
        """Hash of inputs, seed and parameters: the identity of this run's outcome, for checkpoints and caches.

        Parameters that change only when or where work happens (checkpoint intervals, threads) count too, and so does
        the code: a needless fresh start is better than a wrong resume.
        """
        digest = hashlib.sha256(_code_hash(self.step.name).encode())
        sections = [self.step.section or self.step.name, *self.step.sections_read]
        described = {name: self.configuration.section(name).model_dump(mode="json") for name in sections}
        described["seed"] = {"seed": self.seed, "language": self.configuration.language}
        digest.update(json.dumps(described, sort_keys=True).encode())
        for name, path in sorted(self.inputs.items()):
            digest.update(f"{name}:{content_hash(path)}".encode())
        return digest.hexdigest()[:16]

    def work_folder(self) -> Path:
        """`.inkwell/work/<step>/<fingerprint>`: survives a kill, is no output of DVC."""
        folder = STATE / "work" / self.step.name / self.fingerprint()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished_with(self, work: Path, earlier_seconds: float = 0.0) -> None:
        """Say that the outputs stand and `work` is needed no more; it is removed when the step has ended well.

        `earlier_seconds`: what processes before this one spent on the same work, for the step's figures.
        """
        self._finished.append(work)
        self.earlier_seconds = earlier_seconds


def _code_hash(step: str) -> str:
    """Identity of the code that a step may run: its own package, and the modules and data files that steps share."""
    package = Path(__file__).parent
    others = {main.parent.name for main in package.glob("*/__main__.py")} - {step}
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*")):
        if file.suffix in (".py", ".yaml") and file.relative_to(package).parts[0] not in others:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """sha256 of a file, or of a folder's files by sorted relative name."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def write_metrics(path: Path, metrics: Mapping[str, float]) -> None:
    """Write a flat JSON object of numbers, sorted by name, atomically."""
    from components.atomic import atomic_file

    for name, value in metrics.items():
        assert isinstance(value, int | float), f"metric {name} is {type(value).__name__}, not a number"
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def peak_gib() -> float:
    """Largest resident memory of this process or of its largest child so far, GiB."""
    import resource

    scale = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss begins at what the process that started this one held, VmHWM does not
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        own = int(found[1]) if found else own
    return max(own, children) * scale / 2**30


def quiet_environment() -> None:
    """No telemetry, no downloads from hubs by accident, no noise: set before libraries are imported."""
    for name, value in {
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def _parser(step: Step) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m components.{step.name}",
        description=step.summary,
        epilog="Exit status: 0 done, 2 something to mend (told in one sentence), 1 a defect.",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one parameter for this run; may be given again",
    )
    parser.add_argument("--parameters", action="store_true", help="describe this step's parameters and end")
    parser.add_argument(
        "--metrics",
        type=Path,
        default=Path("metrics") / f"{step.name}.json",
        help="where the figures go (default: %(default)s)",
    )
    for kind, files in (("read", step.inputs), ("written", step.outputs)):
        for name, default in files.items():
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=Path, default=Path(default), help=f"{kind} (default: %(default)s)"
            )
    return parser


def main(step: Step, argv: Sequence[str] | None = None) -> int:
    """Run a step from the command line and return its exit status."""
    arguments = _parser(step).parse_args(argv)
    quiet_environment()
    try:
        if arguments.parameters:
            from components.configuration.describe import describe

            print(describe(step.section or step.name))
            return 0
        return _run(step, arguments, sys.argv[1:] if argv is None else argv)
    except InkwellError as error:
        print(f"{step.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{step.name}: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        full = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the limit of file sizes is reached",
        }.get(error.errno or 0)
        if full:
            print(
                f"{step.name}: {full} ({error.filename or 'while writing'}); free some room and run again.",
                file=sys.stderr,
            )
            return 2
        raise
    return 0


def _run(step: Step, arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    from components.configuration import load

    command = [sys.executable, "-m", f"components.{step.name}", *argv]
    if not step.together:
        return _work(step, arguments, load(arguments.params, arguments.set), command)
    from components.launch.processes import here, one_voice, run_together

    place = here()
    with one_voice(place):  # a mistake in the parameters is met by all processes, and told by one
        configuration = load(arguments.params, arguments.set)

        def work() -> int:
            return _work(step, arguments, configuration, command, leader=place.leader)

        return run_together(place, configuration.machine, f"components.{step.name}", argv, work)


def _work(
    step: Step, arguments: argparse.Namespace, configuration: Configuration, command: Sequence[str], leader: bool = True
) -> int:
    """Run the step's function; of several processes the leader alone keeps the record and the figures.

    command: starts this step again, where the function finds that several processes would be faster.
    """
    from components.launch.divided import Divided
    from components.tracking import Recorder

    started = time.monotonic()
    inputs = {name: Path(getattr(arguments, name)) for name in step.inputs}
    outputs = {name: Path(getattr(arguments, name)) for name in step.outputs}
    for name, path in inputs.items():
        # A path that was given by hand is meant, also where the step could do without it.
        if not path.exists() and not (name in step.optional and path == Path(step.inputs[name])):
            raise InkwellError(
                f"{path} (--{name.replace('_', '-')}) does not exist: run the step that writes it first, or `dvc repro {step.name}`."
            )
    recorder = Recorder.start(step, configuration, inputs) if leader else Recorder()
    context = Context(step, configuration, inputs, outputs, recorder)
    function = _resolve(step.function)
    try:
        function(context)
    except Divided as found:
        from components.launch.processes import start_all

        with recorder.lent():
            return start_all(command, found.processes)
    except BaseException:
        recorder.finish("FAILED", context.metrics, outputs)
        raise
    if not leader:
        return 0
    context.metrics["seconds"] = round(time.monotonic() - started + context.earlier_seconds, 2)
    context.metrics["peak_gib"] = round(peak_gib(), 3)
    write_metrics(arguments.metrics, context.metrics)
    recorder.finish("FINISHED", context.metrics, outputs)
    for work in context._finished:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _resolve(function: str) -> Callable[[Context], Any]:
    module, _, name = function.partition(":")
    resolved: Callable[[Context], Any] = getattr(importlib.import_module(module), name)
    return resolved
