"""The faults with all that belongs to them: what has to be there, the disturbed run, and what is mended before the next one."""

from __future__ import annotations

import random
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos import faults
from benchmarks.chaos.disk import SmallDisk, release
from benchmarks.chaos.faults import Moment, Strike
from benchmarks.chaos.grounds import Grounds, targets
from benchmarks.chaos.pipelines import Attempt, Deployed, Pipeline
from benchmarks.chaos.recorded import faults_of_records, track
from benchmarks.chaos.services import Service, object_store
from benchmarks.chaos.soundness import hashes, orphans
from components.errors import InkwellError
from flows.processes import environment


@dataclass
class Scene:
    """What a fault works with. `again` begins an attempt to finish; `checks` are asked at the end and answer with what is wrong."""

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

    def again(self) -> Attempt:
        """Begin an attempt."""
        return self.begin() if self.begin else self.by_hand()

    def by_hand(self, limit: int | None = None) -> Pipeline:
        """Begin an attempt from the command line. `limit`: no file may grow beyond so many KiB."""
        return Pipeline(self.workspace, targets(self.smoke), self.env, self.options, limit)

    def ended(self, first: Attempt) -> int:
        """How the disturbed run ended, once it has; InkwellError when something of it goes on."""
        status = first.wait()
        self.story.append(f"the disturbed run ended with {status}: {last_words(first.said())}")
        left = orphans(self.workspace)
        if left:
            raise InkwellError(f"after the disturbed run (status {status}) still at work: {left[0][:200]}")
        return status

    def tracked(self, uri: str | None = None, perhaps_twice: tuple[str, ...] = ()) -> None:
        """Record the runs, and hold the records against the stages at the end."""
        from flows.orchestration.graph import read_stages

        experiment = f"chaos-{uuid.uuid4().hex}"  # a trial may be run again against the same server
        track(self.workspace, experiment, uri)
        self.env["INKWELL_TRACKING"] = "on"
        stages = [stage.name for stage in read_stages(self.workspace, targets(self.smoke))]
        self.checks.append(lambda: faults_of_records(self.workspace, self.env, experiment, stages, uri, perhaps_twice))


def last_words(said: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without a word"


def stage(scene: Scene) -> Strike:
    """A stage is killed, with its record open."""
    scene.tracked(perhaps_twice=(scene.moment.stage,))
    first = scene.again()
    found = faults.kill_stage(scene.workspace, scene.moment, first.alive)
    scene.ended(first)
    return found


def worker(scene: Scene) -> Strike:
    """A process worker is killed, every second time with its deployment's run; another worker begins."""
    place = scene.workspace.with_name(f"{scene.workspace.name}-worker")
    scene.stack.callback(shutil.rmtree, place, ignore_errors=True)
    _, address = scene.grounds.server()
    deployed = Deployed(scene.workspace, place, address, scene.env, scene.stack)
    scene.stack.callback(deployed.worker.stop)
    deployed.make()
    deployed.worker.start()
    first = deployed.begin(targets(scene.smoke))
    scene.begin = lambda: deployed.begin(targets(scene.smoke))
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, deployed.worker)
    if found.struck and scene.rng.random() < 0.5 and first.kill():
        found = Strike(True, f"{found.words}, and its run with it")
    if not deployed.worker.alive():
        deployed.worker.start()
    scene.ended(first)
    return found


def server(scene: Scene) -> Strike:
    """The Prefect server is killed, and starts again on its data."""
    service, _ = scene.grounds.server()
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, service)
    scene.ended(first)
    scene.grounds.server()
    return found


def database(scene: Scene) -> Strike:
    """PostgreSQL is killed under a Prefect server of its own, and recovers from its log."""
    base, service, address = scene.grounds.database()
    scene.stack.callback(base.stop)
    scene.stack.callback(service.stop)
    base.start()
    service.start()
    scene.env["PREFECT_API_URL"] = address
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, base)
    scene.ended(first)
    for one in (base, service):
        if not one.alive():
            one.start()
    return found


def disk(scene: Scene) -> Strike:
    """The disk becomes full somewhere on the way; later there is room again.

    The workspace moves to a file system of its own, as small as that. Where none may be mounted, no file may grow beyond a limit (RLIMIT_FSIZE).
    """
    total, largest = scene.grounds.outputs(scene.smoke)
    share = scene.rng.uniform(0.02, 0.9)
    scene.stack.callback(release, scene.workspace)
    limit = None
    try:
        # Of each output there are two in the end, one of them in DVC's cache: so much room is never enough.
        scene.disk = SmallDisk(scene.workspace, int(share * 2 * total))
        words = f"a disk with room for {share:.0%} of what is written"
    except InkwellError as error:
        limit = max(1, int(share * largest / 1024))
        words = f"{error} No file may grow beyond {limit} KiB"
    first = scene.by_hand(limit)
    status = scene.ended(first)
    if scene.disk:
        scene.disk.free_room()
    return Strike(status != 0, words)


def mlflow(scene: Scene) -> Strike:
    """The MLflow server is killed while a stage works, stays away for a while and starts again on its data."""
    service, address = scene.grounds.tracking()
    scene.tracked(address)
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, service)
    if found.struck:
        away = scene.rng.uniform(0, 20)
        time.sleep(away)
        found = Strike(True, f"{found.words}, away for {away:.0f} s")
    scene.grounds.tracking()
    scene.ended(first)
    return found


def s3(scene: Scene) -> Strike:
    """The object store of isolated stages is killed, forgets everything and starts again empty."""
    place = scene.workspace.with_name(f"{scene.workspace.name}-store")
    store, endpoint = object_store(place)
    scene.stack.callback(shutil.rmtree, place, ignore_errors=True)
    scene.stack.callback(store.stop)
    _open(store, endpoint)
    scene.env |= _credentials(endpoint)
    _into_git(scene.workspace)
    scene.options = ["--placement", "isolated", "--remote", "s3://store/cache"]
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, store)
    scene.ended(first)
    if not store.alive():
        _open(store, endpoint)
    return found


def two(scene: Scene) -> Strike:
    """A second pipeline starts in the same workspace while the first one works."""
    first = scene.again()
    time.sleep(scene.rng.uniform(0, 5))
    struck = first.alive()
    second = scene.again()
    words = f"a second pipeline ended with {second.wait()}"
    scene.ended(first)
    return Strike(struck, words)


def cache(scene: Scene) -> Strike:
    """A file of DVC's cache is damaged, and the output that is made of it deleted."""
    status = scene.ended(scene.again())
    if status:
        return Strike(False, "nothing to damage")
    victim = scene.rng.choice(sorted(hashes(scene.workspace)))
    words = faults.damage_cache(scene.workspace, victim, scene.rng)
    shutil.rmtree(scene.workspace / victim)
    return Strike(True, f"{words}, which was deleted")


DISTURBANCES: Mapping[str, Callable[[Scene], Strike]] = {
    "stage": stage,
    "worker": worker,
    "server": server,
    "database": database,
    "disk": disk,
    "mlflow": mlflow,
    "s3": s3,
    "two": two,
    "cache": cache,
}


def _open(store: Service, endpoint: str) -> None:
    import boto3

    store.start()
    boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    ).create_bucket(Bucket="store")


def _credentials(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _into_git(workspace: Path) -> None:
    """Isolated stages run at a commit: the workspace becomes a repository of one."""
    from configobj import ConfigObj

    from flows.placement.snapshot import git

    config = ConfigObj(str(workspace / ".dvc" / "config"), encoding="utf-8")
    config["core"].pop("no_scm", None)
    config.write()
    (workspace / ".gitignore").write_text("/data/\n/models/\n/reports/\n/.inkwell/\n__pycache__/\n", encoding="utf-8")
    (workspace / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    git(workspace, "init", "-q")
    git(workspace, "add", "-A")
    git(workspace, "-c", "user.name=chaos", "-c", "user.email=chaos@localhost", "commit", "-qm", "A pipeline")
