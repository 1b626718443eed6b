"""Ray Train starts the processes of a step: `machine.parallel.launcher = ray`, on one machine or a Ray cluster.

Each of Ray's workers runs the step as any other process does; Ray gives it a place and connects it with the others. The
machines share the project's folder, as under Slurm.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.configuration.training import Machine


class StepError(Exception):
    """A worker's step ended with another exit status than 0; it has told why."""


def start_on_ray(module: str, arguments: Sequence[str], machine: Machine) -> int:
    """Run `python -m module` in `processes` x `nodes` workers of Ray; returns the exit status.

    The cluster is the one that RAY_ADDRESS names, else one of this machine that is started for the run.
    """
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise InkwellError(
            "machine.parallel.launcher = 'ray' needs the package ray: `pip install 'ray[train]'`, or use auto."
        ) from error

    from components.launch.processes import started_by
    from components.machine.allocator import settings_for
    from components.step import STATE

    parallel = machine.parallel
    workers = parallel.count * parallel.nodes
    address = os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {}
    if address == "local":
        local = {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
    try:
        ray.init(address=address, logging_level=logging.ERROR, **local)
    except Exception as error:  # ConnectionError, RuntimeError, TimeoutError, ValueError and its own, by version
        where = "a local Ray does not start" if local else f"there is no Ray cluster at RAY_ADDRESS={address}"
        raise InkwellError(
            f"{where} ({str(error).partition(chr(10))[0]}): mend that, or use another launcher."
        ) from error
    try:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"module": module, "arguments": list(arguments), "folder": str(Path.cwd())},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=machine.device == "cuda"),
            run_config=RunConfig(  # type: ignore[call-arg]  # that of Ray Train 2, which RAY_TRAIN_V2_ENABLED chooses
                name=module.rpartition(".")[2],
                storage_path=str((STATE / "ray").absolute()),
                worker_runtime_env={
                    "env_vars": {
                        **settings_for(machine.allocator, {}),
                        **started_by("ray"),
                        "PYTHONPATH": os.pathsep.join(
                            [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
                        ),
                    }
                },
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            statuses = _statuses(error)
            if not statuses:
                raise
            print(
                f"{module}: a worker of Ray ended with status {statuses[0]}; what it told stands above.",
                file=sys.stderr,
            )
            return statuses[0]
        return 0
    finally:
        ray.shutdown()


def _work(config: dict[str, Any]) -> None:
    """One worker: the step, in the project's folder."""
    os.chdir(config["folder"])
    from components.step import main

    step = importlib.import_module(f"{config['module']}.__main__").STEP
    status = main(step, config["arguments"])
    if status:
        raise StepError(status)


def _statuses(error: BaseException) -> list[int]:
    """Exit statuses in what Ray says about failed workers, the lowest worker's first; none for failures of Ray itself."""
    failures: dict[int, Any] = getattr(error, "worker_failures", {})
    wrapped = (getattr(failure, "_base_exc", failure) for _, failure in sorted(failures.items()))
    return [int(failure.args[0]) for failure in wrapped if isinstance(failure, StepError)]
