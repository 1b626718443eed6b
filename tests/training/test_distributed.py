"""Two processes train one model: the same outcome as one, whatever the strategy; nothing lost, no orphan, one voice."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from components.configuration.training import Machine, Parallel
from components.errors import InkwellError
from components.launch.processes import Place, check_place, first_host, here, join_world
from components.machine import cores
from tests.processes import ROOT, finish, start

# Rates at which ten steps of Adam do not blow rounding up; Muon rounds to bfloat16 inside, whoever computes it.
PARAMS = """
ingest: {sources: [{name: tiny, kind: path, location: poems.json}]}
machine: {compile: "off", threads: 1, precision: fp32, calibrate: false}
sampling: {maximum_tokens: 8}
pretrain:
  {architecture: qwen3, hidden_size: 64, layers: 2, heads: 2, key_value_heads: 2, feed_forward_size: 128, block: 64,
   context: 128, micro_batch: 4, accumulation: 2, steps: 10, warmup_steps: 3, validation_every: 5,
   validation_documents: 10, sample_every: 100, ema_decay: 0.9, matrix_learning_rate: 0.002,
   learning_rate: 0.001, embedding_learning_rate: 0.002,
   checkpoints: {minutes: 0.0001}}
"""
TWO = ["--set", "machine.parallel.processes=2"]
STRATEGIES: dict[str, list[str]] = {
    "ddp": [],
    "ddp, optimizer shared out": ["shard_optimizer=true"],
    "fsdp2": ["strategy=fsdp2"],
    "tensor": ["strategy=fsdp2", "tensor=2"],
    "sequence": ["strategy=fsdp2", "tensor=2", "sequence=true"],
    "pipeline": ["pipeline=2"],
    "fsdp2 and tensor, four processes": ["strategy=fsdp2", "tensor=2", "processes=4"],
    "two pipelines, four processes": ["pipeline=2", "processes=4"],
}


def changed(*values: str) -> list[str]:
    """`--set` for each."""
    return [word for value in values for word in ("--set", value)]


def strategy(name: str) -> list[str]:
    """Arguments of two processes of that strategy."""
    return [*TWO, *changed(*(f"machine.parallel.{value}" for value in STRATEGIES[name]))]


def curve(folder: Path, column: str) -> list[float]:
    """A column of the learning curve."""
    return [float(row[column]) for row in csv.DictReader((folder / "data/curves/pretrain.csv").open())]


def assert_alike(one: Path, other: Path) -> None:
    """Same curve and same weights within rounding."""
    assert curve(one, "tokens") == curve(other, "tokens")
    np.testing.assert_allclose(curve(one, "loss"), curve(other, "loss"), rtol=5e-5)
    np.testing.assert_allclose(curve(one, "gradient_norm"), curve(other, "gradient_norm"), rtol=1e-3)
    weights, others = (load_file(folder / "models/base/model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert weight.shape == others[name].shape
        difference = np.linalg.norm(weight - others[name]) / np.linalg.norm(weight)
        assert difference < 5e-3, f"{name}: {difference}"
    bits = [json.loads((folder / "metrics/pretrain.json").read_text())["val_bits_per_char"] for folder in (one, other)]
    assert bits[0] == pytest.approx(bits[1], rel=5e-4)


@pytest.fixture(scope="module")
def files(token_folder: Path, tokenizer_folder: Path) -> list[str]:
    return ["--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, files: list[str]) -> dict[str, Path]:
    """One process, by optimizer."""
    found = {}
    for optimizer in ("muon", "adamw"):
        found[optimizer] = tmp_path_factory.mktemp("alone") / optimizer
        finish(start("pretrain", found[optimizer], PARAMS, *files, *changed(f"pretrain.optimizer={optimizer}")))
    return found


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_process_equals_two(tmp_path: Path, files: list[str], alone: dict[str, Path], name: str) -> None:
    output = finish(start("pretrain", tmp_path, PARAMS, *files, *strategy(name)))
    assert output.count("  model:") == 1, "only the leader speaks"
    assert_alike(alone["muon"], tmp_path)


@pytest.mark.parametrize("name", ["ddp, optimizer shared out", "fsdp2"])
def test_one_process_equals_two_with_adamw(tmp_path: Path, files: list[str], alone: dict[str, Path], name: str) -> None:
    finish(start("pretrain", tmp_path, PARAMS, *files, *strategy(name), "--set", "pretrain.optimizer=adamw"))
    assert_alike(alone["adamw"], tmp_path)


def test_more_rows_than_processes_can_share_evenly_are_all_seen(
    tmp_path: Path, files: list[str], alone: dict[str, Path]
) -> None:
    """Three processes, eight rows a step: one has two, and a row of padding."""
    finish(start("pretrain", tmp_path, PARAMS, *files, *changed("machine.parallel.processes=3")))
    assert_alike(alone["muon"], tmp_path)


def wait_for_checkpoint(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Until a checkpoint of that step or a later one lies in `folder`."""
    while process.poll() is None:
        found = folder.glob(".inkwell/work/pretrain/*/checkpoints/rows-*-step-*.ckpt")
        if any(int(path.stem.rpartition("-")[2]) >= step for path in found):
            return
        time.sleep(0.005)
    raise AssertionError(f"it ended before step {step}: {process.communicate()[0]}")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ddp, optimizer shared out", "one"),
        ("one", "fsdp2"),
        ("fsdp2", "pipeline"),
        ("pipeline", "tensor"),
        ("tensor", "ddp, optimizer shared out"),
    ],
)
def test_a_run_goes_on_with_other_processes(
    tmp_path: Path, files: list[str], alone: dict[str, Path], first: str, second: str
) -> None:
    """Killed in the middle and taken up by another number of processes or another strategy: same documents, same end."""
    arguments = {"one": [], **{name: strategy(name) for name in STRATEGIES}}
    process = start("pretrain", tmp_path, PARAMS, *files, *arguments[first])
    wait_for_checkpoint(process, tmp_path, 3)
    process.kill()
    process.communicate()
    finish(start("pretrain", tmp_path, PARAMS, *files, *arguments[second]))
    metrics = json.loads((tmp_path / "metrics/pretrain.json").read_text())
    assert 3 <= metrics["resumed_at_step"] < 10
    assert_alike(alone["muon"], tmp_path)


def test_processes_of_a_replica_drop_the_same_numbers_when_they_take_up_a_run(tmp_path: Path, files: list[str]) -> None:
    """Otherwise what each of them holds whole would drift apart; one process would have dropped those numbers too."""
    arguments = [*files, *changed("pretrain.residual_dropout=0.2", "machine.fused=off")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start("pretrain", whole, PARAMS, *arguments))
    process = start("pretrain", killed, PARAMS, *arguments)
    wait_for_checkpoint(process, killed, 3)
    process.kill()
    process.communicate()
    finish(start("pretrain", killed, PARAMS, *arguments, *strategy("tensor")))
    assert json.loads((killed / "metrics/pretrain.json").read_text())["resumed_at_step"] < 10
    assert_alike(whole, killed)


@pytest.mark.parametrize("name", ["ddp, optimizer shared out", "fsdp2"])
def test_killed_and_started_again_two_processes_end_with_the_same_bits(
    tmp_path: Path, files: list[str], name: str
) -> None:
    arguments = [*files, *strategy(name), *changed("pretrain.dropout=0.1", "pretrain.residual_dropout=0.1")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start("pretrain", whole, PARAMS, *arguments))
    for step in (2, 6):
        process = start("pretrain", killed, PARAMS, *arguments)
        wait_for_checkpoint(process, killed, step)
        process.kill()
        process.communicate()
    finish(start("pretrain", killed, PARAMS, *arguments))
    assert json.loads((killed / "metrics/pretrain.json").read_text())["resumed_at_step"] >= 6
    assert (whole / "data/curves/pretrain.csv").read_text() == (killed / "data/curves/pretrain.csv").read_text()
    same = "models/base/model.safetensors"
    assert (whole / same).read_bytes() == (killed / same).read_bytes()


def test_a_disk_that_refuses_checkpoints_is_survived_by_all(
    tmp_path: Path, files: list[str], alone: dict[str, Path]
) -> None:
    """Only the leader writes; the others would wait for it in the gathering of what it cannot write."""
    process = start("pretrain", tmp_path, PARAMS, *files)
    wait_for_checkpoint(process, tmp_path, 1)
    process.kill()
    process.communicate()
    (folder,) = tmp_path.glob(".inkwell/work/pretrain/*/checkpoints")
    shutil.rmtree(folder)
    folder.touch()  # no file can be made in it now
    output = finish(start("pretrain", tmp_path, PARAMS, *files, *TWO))
    assert "checkpoint not written after step 3 (File exists)" in output
    assert_alike(alone["muon"], tmp_path)


def children(process: int) -> list[int]:
    """Process ids of its children."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def gone(process: int) -> bool:
    """Whether it has ended; a zombie has."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_worker_outlives_its_launcher(tmp_path: Path, files: list[str]) -> None:
    process = start("pretrain", tmp_path, PARAMS, *files, *TWO, "--set", "pretrain.steps=100000")
    wait_for_checkpoint(process, tmp_path, 1)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    deadline = time.monotonic() + 60
    while not all(gone(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.1)
    process.communicate()


def wait_for_progress(process: subprocess.Popen[str]) -> str:
    """What it printed up to its first line of progress, which a step has ended before."""
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if re.match(r" +pretrain: +[0-9]+%.*tokens/s", line):
            return told
    raise AssertionError(f"it ended before it trained: {told}")


def test_asked_to_end_all_save_and_end(tmp_path: Path, files: list[str], alone: dict[str, Path]) -> None:
    seldom = ["--set", "pretrain.checkpoints.minutes=1000"]
    long = [*files, *TWO, *seldom, "--set", "pretrain.steps=100000", "--set", "pretrain.validation_every=100000"]
    process = start("pretrain", tmp_path, PARAMS, *long)
    output = wait_for_progress(process)
    assert not list(tmp_path.glob(".inkwell/work/pretrain/*/checkpoints/rows-*.ckpt")), "none is due for a long time"
    process.send_signal(signal.SIGTERM)
    output += finish(process, 128 + signal.SIGTERM)
    assert output.count("asked to end") == 1
    assert "Traceback" not in output
    assert list(tmp_path.glob(".inkwell/work/pretrain/*/checkpoints/rows-*.ckpt")), "the checkpoint is written"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["pretrain.micro_batch=100000"], "pretrain.micro_batch"),
        (["machine.parallel.tensor=2"], "machine.parallel.strategy = 'fsdp2'"),
        (["machine.parallel.strategy=fsdp2", "machine.parallel.tensor=3"], "no multiple of it"),
        (["machine.parallel.pipeline=2", "pretrain.layers=1"], "pretrain.layers"),
        (["machine.parallel.pipeline=2", "pretrain.tie_embeddings=true"], "pretrain.tie_embeddings"),
        (["machine.parallel.nodes=2"], "machine.parallel.nodes"),
        (["machine.parallel.launcher=slurm"], "srun"),
        (["machine.parallel.strategy=fsdp2", "pretrain.architecture=mamba2"], "cannot share a row"),
    ],
)
def test_a_mistake_is_told_once(tmp_path: Path, files: list[str], change: list[str], named: str) -> None:
    output = finish(start("pretrain", tmp_path, PARAMS, *files, *TWO, *changed(*change)), status=2)
    told = [line for line in output.splitlines() if not line.startswith("  plan:")]
    assert len(told) == 1, output
    assert named in told[0]


@pytest.mark.parametrize(
    ("family", "parallel"),
    [("opt", {"strategy": "fsdp2"}), ("qwen3", {"strategy": "fsdp2"}), ("qwen3", {"pipeline": 2})],
)
def test_models_whose_passes_differ_in_number_are_refused(family: str, parallel: dict[str, Any]) -> None:
    """A family that is not known, and one that is, with layers that attend in different ways; else they would hang."""
    import transformers

    from components.training.distributed import make_world

    shape: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model: Any
    if family == "opt":
        model = transformers.OPTForCausalLM(transformers.OPTConfig(**shape, ffn_dim=48, word_embed_proj_dim=32))
    else:
        shape |= {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": False}
        windows = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, **windows))
    world = make_world(Place(size=2, local_size=2), Parallel(**parallel))
    with pytest.raises(InkwellError, match=rf"{next(iter(parallel))} = .*this {family} model cannot share a row"):
        world.check(model, 32)


ONE_FAILS = """
import os, sys
from components.errors import InkwellError
from components.launch.processes import here, one_voice, start_all
if "RANK" not in os.environ:
    sys.exit(start_all([sys.executable, __file__], 2))
import torch.distributed as dist
place = here()
dist.init_process_group("gloo", init_method="env://")
try:
    with one_voice(place):
        print(f"process {place.rank} speaks")
        if place.rank == FAILING:
            raise ERROR
        dist.barrier()  # breaks when the other process has gone
except InkwellError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(("error", "status"), [("InkwellError('mend it')", 2), ("ValueError('mend it')", 1)])
def test_who_fails_explains_and_the_others_end_silently(tmp_path: Path, failing: int, error: str, status: int) -> None:
    script = tmp_path / "fails.py"
    script.write_text(ONE_FAILS.replace("FAILING", str(failing)).replace("ERROR", error), encoding="utf-8")
    found = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True
    )
    assert found.returncode == status, found.stderr
    assert found.stdout == "process 0 speaks\n"
    assert found.stderr.count("mend it") == 1 + (status == 1)  # a traceback quotes the line as well
    assert "barrier" not in found.stderr


def test_torchrun_starts_it(tmp_path: Path, files: list[str], alone: dict[str, Path]) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29713", "-m"]
    finished = subprocess.run(
        [sys.executable, *command, "components.pretrain", *files],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("  model:") == 1
    assert_alike(alone["muon"], tmp_path)


def test_srun_starts_it(tmp_path: Path, files: list[str], alone: dict[str, Path]) -> None:
    """The variables that srun sets, in two processes that nobody else has started."""
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    step = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "components.pretrain", *files],
            cwd=tmp_path,
            env={
                **os.environ,
                **step,
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank),
                "PYTHONPATH": str(ROOT),
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    outputs = [finish(process) for process in processes]
    assert ["  model:" in output for output in outputs] == [True, False]
    assert_alike(alone["muon"], tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Ray Train's workers are processes of a Unix")
def test_ray_train_starts_it(tmp_path: Path, files: list[str], alone: dict[str, Path]) -> None:
    os.environ.pop("RAY_ADDRESS", None)  # a Ray of this machine, for the time of the run
    output = finish(start("pretrain", tmp_path, PARAMS, *files, *TWO, "--set", "machine.parallel.launcher=ray"))
    assert "work: 5.12 k tokens" in output, output
    assert_alike(alone["muon"], tmp_path)


def test_a_mistake_on_ray_is_told(tmp_path: Path, files: list[str]) -> None:
    os.environ.pop("RAY_ADDRESS", None)
    wrong = ["--set", "machine.parallel.launcher=ray", "--set", "pretrain.micro_batch=100000"]
    output = finish(start("pretrain", tmp_path, PARAMS, *files, *TWO, *wrong), status=2)
    assert "pretrain.micro_batch" in output


def test_a_place_is_read_from_what_started_the_process() -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
    found = here({**torchrun, "MASTER_ADDR": "node7", "MASTER_PORT": "29500"})
    assert found == Place(5, 8, 1, 4, 1, "node7", 29500, "torchrun")
    assert (found.leader, found.nodes) == (False, 2)
    slurm = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_PROCID": "6",
        "SLURM_LOCALID": "2",
        "SLURM_NODEID": "1",
        "SLURM_JOB_ID": "123456",
        "SLURM_STEP_NODELIST": "gpu[07-09,12],login",
    }
    assert here(slurm) == Place(6, 8, 2, 4, 1, "gpu07", 15000 + 3456, "slurm")
    assert here({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == Place(), "a batch script is no step"
    assert here({}) == Place()
    with pytest.raises(InkwellError, match="--ntasks-per-node"):
        here({**slurm, "SLURM_STEP_NUM_TASKS": "7"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[07-09,12],login", "gpu07"),
        ("a1,a2", "a1"),
        ("rack2-n[1,3]-ib", "rack2-n1-ib"),
        ("rack[1-2]n[01-04]", "rack1n01"),
        ("rack[3,5-7]n[02-04]-ib,login", "rack3n02-ib"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("launcher", "environment", "quota", "wanted"),
    [
        ("ray", {}, None, 4),
        ("ray", {}, 6, 3),
        ("slurm", {}, None, 4),
        ("slurm", {"SLURM_CPUS_ON_NODE": "16"}, None, 8),
        ("slurm", {"SLURM_CPUS_ON_NODE": "8"}, None, 4),
        ("ray", {}, 1, 1),
    ],
)
def test_processes_that_share_cores_take_a_part_each(
    monkeypatch: pytest.MonkeyPatch, launcher: str, environment: dict[str, str], quota: int | None, wanted: int
) -> None:
    """Eight cores and two processes, whose affinity nobody has cut, unless Slurm has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_container_cores", lambda _: quota)
    for name in ("_sharing_cores", "_sharing_time"):
        monkeypatch.setattr(cores, name, 1)  # and what it was afterwards
    monkeypatch.setattr(cores, "_together", None)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = 16 if environment.get("SLURM_CPUS_ON_NODE") == "16" else 8
    join_world(Place(1, 2, 1, 2, launcher=launcher), Machine())
    assert cores.available_cores() == wanted
    assert cores.cores_together() == min(before, quota or before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
@pytest.mark.parametrize(("device", "bound"), [("cpu", range(4, 8)), ("auto", None)])
def test_processes_of_our_own_are_bound_to_their_part_or_count_it(
    monkeypatch: pytest.MonkeyPatch, device: str, bound: range | None
) -> None:
    held = {"cores": set(range(8))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: held["cores"])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: held.update(cores=set(cores)))
    monkeypatch.setattr("threading.Thread.start", lambda _: None)  # would end the tests with their parent
    monkeypatch.setattr(cores, "_container_cores", lambda _: None)
    for name in ("_sharing_cores", "_sharing_time"):
        monkeypatch.setattr(cores, name, 1)
    monkeypatch.setattr(cores, "_together", None)
    join_world(Place(1, 2, 1, 2, launcher="torchrun"), Machine(device=device))
    assert held["cores"] == set(bound or range(8))
    assert (cores.available_cores(), cores.cores_together()) == (4, 8)


@pytest.mark.parametrize(
    ("place", "parallel", "named"),
    [
        (Place(size=4, local_size=2, launcher="torchrun"), {"processes": 4}, "make them agree"),
        (Place(size=4, local_size=2, launcher="torchrun"), {"launcher": "self"}, "torchrun started"),
        (Place(), {"launcher": "torchrun"}, "torchrun --nproc-per-node"),
        (Place(), {"nodes": 2}, "machine.parallel.nodes"),
    ],
)
def test_other_processes_than_asked_for_are_refused(place: Place, parallel: dict[str, Any], named: str) -> None:
    with pytest.raises(InkwellError, match=named):
        check_place(place, Parallel(**parallel))


@pytest.mark.parametrize("parallel", [{}, {"processes": 2, "nodes": 2}, {"launcher": "torchrun"}])
def test_what_was_started_is_taken(parallel: dict[str, Any]) -> None:
    check_place(Place(size=4, local_size=2, launcher="torchrun"), Parallel(**parallel))
