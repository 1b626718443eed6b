"""The faults with all that belongs to them: what has to be there, the disturbed run, and what is mended before the next one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping

from benchmarks.chaos import faults
from benchmarks.chaos.disk import SmallDisk, release
from benchmarks.chaos.faults import Strike
from benchmarks.chaos.grounds import targets
from benchmarks.chaos.pipelines import Deployed
from benchmarks.chaos.scene import Scene
from benchmarks.chaos.services import object_store
from benchmarks.chaos.soundness import hashes, orphans
from benchmarks.chaos.store import credentials, into_git, open_store
from components.errors import InkwellError

# Seconds, at most, that what is killed stays away. Prefect's client asks for about a minute: a flow outlives some of these.
_AWAY = {"server": 60.0, "database": 60.0, "mlflow": 20.0}


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
    scene.tracked()
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
    """The Prefect server is killed while a stage works, stays away for a while and starts again on its data."""
    service, _ = scene.grounds.server()
    scene.tracked()
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, service)
    found = scene.away(found, _AWAY["server"])
    scene.grounds.server()
    scene.ended(first)
    return found


def database(scene: Scene) -> Strike:
    """PostgreSQL is killed under a Prefect server of its own, stays away for a while and recovers from its log."""
    base, service, address = scene.grounds.database()
    scene.stack.callback(base.stop)
    scene.stack.callback(service.stop)
    base.start()
    service.start()
    scene.env["PREFECT_API_URL"] = address
    scene.tracked()
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, base)
    found = scene.away(found, _AWAY["database"])
    if found.struck:
        orphans(base.folder / "postgres")  # the rest of it leaves by itself, and it does not start beside that
    for one in (base, service):
        if not one.alive():
            one.start()
    scene.ended(first)
    return found


def disk(scene: Scene) -> Strike:
    """The disk becomes full somewhere on the way; later there is room again.

    The workspace moves to a file system of its own, as small as that. Where none may be mounted, no file may grow beyond a limit (RLIMIT_FSIZE).
    """
    total, largest = scene.grounds.outputs(scene.smoke)
    share = scene.rng.uniform(0.02, 0.9)
    scene.stack.callback(release, scene.workspace)
    # The spool is on the full disk, the records themselves are not: a stage that could not note its end has no finished run.
    _, address = scene.grounds.tracking()
    scene.tracked(address, perhaps_none=True)
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
    scene.tracked(address, perhaps_twice=())
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, service)
    found = scene.away(found, _AWAY["mlflow"])
    scene.grounds.tracking()
    scene.ended(first)
    return found


def s3(scene: Scene) -> Strike:
    """The object store of isolated stages is killed, every second time with the worker of a stage; it starts again empty.

    It forgets everything, records on their way home among it.
    """
    place = scene.workspace.with_name(f"{scene.workspace.name}-store")
    store, endpoint = object_store(place)
    scene.stack.callback(shutil.rmtree, place, ignore_errors=True)
    scene.stack.callback(store.stop)
    open_store(store, endpoint)
    scene.env |= credentials(endpoint)
    scene.tracked(perhaps_none=True)
    into_git(scene.workspace)
    scene.options = ["--placement", "isolated", "--remote", "s3://store/cache"]
    first = scene.again()
    found = faults.kill_service(scene.workspace, scene.moment, first.alive, store)
    if found.struck and scene.rng.random() < 0.5 and faults.kill_isolated(scene.workspace, scene.moment.stage):
        found = Strike(True, f"{found.words}, and its worker")
    scene.ended(first)
    if not store.alive():
        open_store(store, endpoint)
    return found


def two(scene: Scene) -> Strike:
    """A second pipeline starts in the same workspace while the first one works. It goes along, or is refused in words."""
    scene.tracked()
    first = scene.again()
    time.sleep(scene.rng.uniform(0, 5))
    struck = first.alive()
    second = scene.again()
    status = second.wait()
    if status and "Traceback (most recent call last)" in second.said():
        scene.checks.append(lambda: [f"the second pipeline ended with {status} and a traceback"])
    scene.ended(first)
    return Strike(struck, f"a second pipeline ended with {status}")


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
