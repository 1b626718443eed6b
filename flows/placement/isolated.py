"""Each stage in a clone at a commit, results by way of a DVC remote: the way to other machines.

The coordinator only names the commit, starts workers and, at the end, takes over what they made; a worker needs the repository, the
remote and credentials in its environment, nothing of the coordinator's disk.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from components.errors import InkwellError
from components.step import STATE
from flows.orchestration.graph import Stage, read_stages
from flows.orchestration.objects import drop_damaged_of
from flows.orchestration.sentences import kind_and_words
from flows.placement import clones, records
from flows.placement.handover import Store, open_repository, quiet, take_over
from flows.placement.sharing import push
from flows.placement.snapshot import commit_of, left_out
from flows.processes import environment


class Isolated:
    """`remote`: a name of `dvc remote list` or an address. `launchers`: what is put before the worker's command, by pool; "" is for
    stages without one. `{command}` in a launcher takes the whole command as one quoted word.
    """

    def __init__(
        self,
        folder: Path,
        remote: str,
        allow_dirty: bool = False,
        repository: str | None = None,
        scratch: Path | None = None,
        launchers: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.remote, self.allow_dirty = remote, allow_dirty
        self.repository = repository or str(self.folder)
        self.scratch = (scratch or self.folder / STATE / "workers").resolve()
        self.launchers = dict(launchers or {})
        self.commit = ""

    def check(self, stages: Sequence[Stage]) -> None:
        """Look for the launchers, name the commit and reach the remote."""
        unknown = sorted({stage.pool for stage in stages if stage.pool and stage.pool not in self.launchers})
        if unknown and self.launchers:
            raise InkwellError(
                f"dvc.yaml puts a stage into the pool {unknown[0]!r}, and no launcher is known for it: --launch {unknown[0]}=COMMAND."
            )
        for launcher in self.launchers.values():
            self._check_launcher(launcher)
        self.commit = self._commit()
        Store(self.folder, self.remote).check()

    def _check_launcher(self, launcher: str) -> None:
        try:
            words = shlex.split(launcher)
        except ValueError as error:
            raise InkwellError(f"--launch {launcher!r} is no command line ({error}): mend its quotes.") from error
        if not words:
            return
        # As it will be started: in the checkout, with this interpreter's folder first on the path.
        program = str(self.folder / words[0]) if "/" in words[0] else words[0]
        if shutil.which(program, path=environment()["PATH"]) is None:
            raise InkwellError(
                f"--launch: there is no program {words[0]!r} on this machine, which starts the workers: install it, or mend its name."
            )

    def _commit(self) -> str:
        stages = read_stages(self.folder)
        made = [path for stage in stages for path in (*stage.outputs, *stage.uncached)]
        # Of files that git does not know, those go along that a stage reads and none makes.
        read = {path for stage in stages for path in stage.inputs if not _lies_in(path, made)}
        return commit_of(self.folder, self._results(stages), self.allow_dirty, read)

    def _results(self, stages: Sequence[Stage]) -> set[str]:
        """What the pipeline itself writes, and git may know: dvc.lock, DVC's own list of its folders, outputs that it does not keep."""
        return {"dvc.lock", ".dvc/.gitignore", *(path for stage in stages for path in stage.uncached)}

    def begin(self, stages: Sequence[Stage]) -> None:
        """Check, and push what this checkout has, so that workers need not make it again."""
        self.check(stages)
        results = self._results(read_stages(self.folder))
        stays = left_out(self.folder, self.commit, results) if self.allow_dirty else []
        if stays:
            shown = ", ".join(stays[:3]) + (f" and {len(stays) - 3} more" if len(stays) > 3 else "")
            print(f"isolated: files that git does not know and no stage reads stay here: {shown}.", file=sys.stderr)
        if (self.folder / "dvc.lock").exists():
            try:
                push(self.folder, remote=self.remote)
            except Exception as error:  # what cannot be pushed is made again by the workers
                print(f"isolated: not all that is here went to the remote ({error}).", file=sys.stderr)

    def settled(self, stages: Sequence[Stage]) -> Set[str]:
        """None: what stands here need not stand on the remote, where the stages meet."""
        return frozenset()

    def command(self, stage: Stage, force: bool) -> list[str]:
        """The worker's command line, behind the launcher of the stage's pool."""
        launcher = self.launchers.get(stage.pool or "", "")
        worker = [
            # Another machine has a Python of its own.
            "python" if launcher else sys.executable,
            "-m",
            "flows.placement.worker",
            "--commit",
            self.commit,
            "--stage",
            stage.name,
            "--remote",
            self.remote,
            "--repository",
            self.repository,
            "--scratch",
            str(self.scratch),
            *(["--force"] if force else []),
        ]
        if "{command}" in launcher:
            return [part.replace("{command}", shlex.join(worker)) for part in shlex.split(launcher)]
        return [*shlex.split(launcher), *worker]

    def finish(self, finished: Sequence[Stage]) -> None:
        """Take over the entries and files of `finished`, fetch their outputs, and confirm that nothing is to do.

        `dvc status` confirms it and not `dvc repro --pull`: that one would run, here and in silence, what it holds to be missing.
        """
        self._take_records()
        if not finished:
            return
        if self._commit() != self.commit:
            raise InkwellError(
                f"{self.folder} has changed since the stages began at {self.commit[:12]}: their results are on {self.remote}; "
                f"bring the files back (`git checkout {self.commit[:12]}`) and run again to take them over."
            )
        names = [stage.name for stage in finished]
        handovers = Store(self.folder, self.remote).get(self.commit, names)
        missing = [name for name in names if name not in handovers]
        if missing:
            raise InkwellError(f"{self.remote} does not hold what {missing[0]} made: run the pipeline again.")
        try:
            take_over(self.folder, [handovers[name] for name in names])
            with quiet(), open_repository(self.folder, self.remote) as repo:
                damaged = drop_damaged_of(repo, names)
                # a bare name would be looked for in the folder that this process works in
                repo.pull(targets=[f"{self.folder.absolute() / 'dvc.yaml'}:{name}" for name in names], force=True)
        except Exception as error:  # DVC's, botocore's, the disk's
            raise InkwellError(
                f"what the stages made is on {self.remote} and did not come to {self.folder} "
                f"({kind_and_words(error)}): run again to fetch it."
            ) from error
        for sentence in damaged:
            print(f"isolated: {sentence}", file=sys.stderr)
        confirmed = subprocess.run(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json", *names],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if confirmed.returncode or confirmed.stdout.strip() != "{}":
            raise InkwellError(
                f"{self.folder} is not what the stages made: {' '.join((confirmed.stdout + confirmed.stderr).split())}; run again."
            )
        clones.remove(self.scratch / self.commit, names)  # those of stages that failed keep their checkpoints

    def _take_records(self) -> None:
        """What MLflow was not told by the stages, those that failed too, is told from here; it never fails the run."""
        try:
            records.take(Store(self.folder, self.remote), self.commit, self.folder)
        except Exception as error:
            print(
                f"isolated: what the stages have for MLflow stays on {self.remote} until a run at {self.commit[:12]} "
                f"({kind_and_words(error)}).",
                file=sys.stderr,
            )


def _lies_in(path: str, folders: Sequence[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)
