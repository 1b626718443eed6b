"""Sweeps of a pipeline with one stage of a second, by real DVC experiments, a real Prefect server and a real MLflow."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.errors import InkwellError
from flows.processes import environment
from flows.revisions import Revision, experiments, head
from flows.sweep.__main__ import main
from flows.sweep.checkout import alone, keep, mend, restore
from flows.sweep.trials import Plan, Range, Trial, grid, importance, read_space, suggested
from tests.processes import ROOT

DVC_YAML = """
stages:
  pretrain:
    cmd: python train.py
    deps: [train.py]
    params: [pretrain]
    outs: [data/curves]
    metrics:
      - metrics/pretrain.json: {cache: false}
"""
# The best is at a rate of 0.02 with 4 layers; 3 layers are refused, as a step would in one sentence.
TRAIN = """
import json, os, sys, time, yaml
p = yaml.safe_load(open('params.yaml'))['pretrain']
if p['layers'] == 3:
    print('pretrain: pretrain.layers is 3: choose another.', file=sys.stderr)
    sys.exit(2)
os.makedirs('data', exist_ok=True)
open('data/training', 'w').close()
time.sleep(float(os.environ.get('TRAIN_SECONDS', '0')))
loss = (p['learning_rate'] - 0.02) ** 2 * 1e4 + 1 / p['layers']
os.makedirs('metrics', exist_ok=True)
os.makedirs('data/curves', exist_ok=True)
with open('data/curves/pretrain.csv', 'w') as file:
    file.write('step,validation_bits_per_char\\n1,9\\n2,' + str(loss) + '\\n')
json.dump({'val_bits_per_char': loss, 'seconds': 0.1}, open('metrics/pretrain.json', 'w'))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A Git repository with a pipeline of one stage and the project's params.yaml."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    (folder / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    (folder / ".gitignore").write_text("/data/\n.inkwell/\n", encoding="utf-8")

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)

    run("git", "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q")
    # as the project has it: a process that looks for a newer DVC would be taken for one that the sweep left behind
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n", encoding="utf-8")
    run("git", "add", "--all")
    run("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "-q", "-m", "A pipeline")
    return folder


def plan(folder: Path, space: dict[str, object], trials: int | None = None, **more: object) -> Plan:
    given: dict[str, object] = {"maximize": False, "stage": "pretrain", "metric": "val_bits_per_char", **more}
    return Plan(folder, space=space, trials=trials, seed=1, name="s", baseline="0" * 40, state="x", **given)  # type: ignore[arg-type]


def test_a_grid_is_tried_resumed_recorded_and_applied(
    checkout: Path, prefect_server: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INKWELL_TRACKING", raising=False)
    arguments = ["pretrain.learning_rate=0.01,0.02", "pretrain.layers=3,4", "--workspace", str(checkout), "--jobs", "2"]
    assert main([*arguments, "--name", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "learning_rate=0.02, layers=4: 0.25" in said
    assert "failed: " in said
    place = checkout / ".inkwell/sweeps/tiny"
    found = json.loads((place / "sweep.json").read_text())
    assert found["best"]["values"] == {"pretrain.learning_rate": 0.02, "pretrain.layers": 4}
    assert found["failed"] == 2
    assert any("pretrain.layers is 3: choose another" in trial["note"] for trial in found["trials"])
    names = experiments(checkout, head(checkout))
    assert sorted(names) == sorted(t["name"] for t in found["trials"] if t["state"] == "finished")
    assert b"learning_rate: 0.02" in (Revision(checkout, names[found["best"]["experiment"]]).read("params.yaml") or b"")
    assert Revision(checkout, names[found["best"]["experiment"]]).read("data/curves/pretrain.csv")
    page = (place / "sweep.html").read_text()
    assert "Learning curves" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert not list((checkout / ".dvc/tmp/exps/standalone").glob("tmp*"))

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{checkout / '.inkwell/mlflow.db'}")
    everything = client.search_runs([client.get_experiment_by_name("inkwell").experiment_id])
    parent = next(run for run in everything if run.data.tags["inkwell.kind"] == "sweep")
    children = [run for run in everything if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.status for run in children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    best = next(run for run in children if run.data.tags.get("dvc.experiment") == found["best"]["experiment"])
    assert best.data.params["pretrain.learning_rate"] == "0.02"
    assert best.data.metrics["val_bits_per_char"] == pytest.approx(0.25)

    assert main([*arguments, "--name", "tiny", "--apply"]) == 0
    said = capsys.readouterr().out
    assert said.count("kept from an earlier run") == 4
    assert len(client.search_runs([parent.info.experiment_id])) == len(everything)
    from components.configuration import load

    applied = load(checkout / "params.yaml").pretrain
    assert (applied.learning_rate, applied.layers) == (0.02, 4)
    assert "# peak learning rate" in (checkout / "params.yaml").read_text()
    assert main([*arguments, "--name", "tiny"]) == 0
    assert capsys.readouterr().out.count("kept from an earlier run") == 4, "--apply made the trials new ones"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_sweep_leaves_nothing_running_and_goes_on(checkout: Path, ending: signal.Signals) -> None:
    """As a user runs it: without a server of his own, with a change that is not committed."""
    with (checkout / "train.py").open("a") as file:
        file.write("# not committed\n")
    branch = _git(checkout, "symbolic-ref", "HEAD")
    command = [sys.executable, "-m", "flows.sweep", "pretrain.learning_rate=0.01,0.02,0.03", "--name", "killed"]
    env = {name: value for name, value in environment().items() if name != "PREFECT_API_URL"}
    env |= {"PYTHONPATH": str(ROOT), "INKWELL_TRACKING": "off", "PREFECT_HOME": str(checkout.parent / "prefect")}
    copies = checkout / ".dvc/tmp/exps/standalone"
    log = checkout.parent / "log"
    with log.open("w") as written:
        process = subprocess.Popen(
            command, cwd=checkout, env={**env, "TRAIN_SECONDS": "15"}, stdout=written, stderr=written
        )
        try:
            deadline = time.monotonic() + 240
            trained: set[Path] = set()
            while len(trained) < 2:  # the first trial is finished and the second trains
                trained |= set(copies.glob("tmp*/data/training"))
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            process.send_signal(ending)
            status = process.wait(120)
        finally:
            process.kill()
            process.wait()
    assert status == (130 if ending == signal.SIGTERM else -signal.SIGKILL), log.read_text()
    deadline = time.monotonic() + 30
    while alive := _alive(checkout):
        assert time.monotonic() < deadline, f"something goes on behind the sweep: {alive}"
        time.sleep(0.2)
    first = experiments(checkout)
    assert len(first) == 1, log.read_text()
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept from an earlier run") == 1, done.stdout
    found = json.loads((checkout / ".inkwell/sweeps/killed/sweep.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 3
    assert len(experiments(checkout)) == 3
    assert first.items() <= experiments(checkout).items()
    assert not list(copies.glob("tmp*"))
    assert _git(checkout, "symbolic-ref", "HEAD") == branch
    assert _git(checkout, "status", "--porcelain") == "M train.py"
    assert (checkout / "train.py").read_text().endswith("# not committed\n")
    assert not _alive(checkout)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _put_away(folder: Path) -> None:
    """What DVC has done to a checkout at the moment before it makes a trial's copy."""
    _git(folder, "-c", "user.name=test", "-c", "user.email=test@example.invalid", "stash", "push", "-q")
    _git(folder, "checkout", "-q", "--detach")
    (folder / "params.yaml").write_text("pretrain: {layers: 99}\n", encoding="utf-8")


def test_a_checkout_that_was_put_away_comes_back(checkout: Path) -> None:
    branch = _git(checkout, "symbolic-ref", "HEAD")
    before = (checkout / "params.yaml").read_text(encoding="utf-8")
    (checkout / "train.py").write_text("# mine\n", encoding="utf-8")
    (checkout / "new.py").write_text("# mine too\n", encoding="utf-8")
    _git(checkout, "add", "new.py")
    state = _git(checkout, "status", "--porcelain")
    keep(checkout)
    restore(checkout)
    assert _git(checkout, "stash", "list") == "", "nothing was put away"
    keep(checkout)
    _put_away(checkout)
    mend(checkout)
    assert _git(checkout, "symbolic-ref", "HEAD") == branch
    assert _git(checkout, "status", "--porcelain") == state
    assert (checkout / "train.py").read_text() == "# mine\n"
    assert (checkout / "params.yaml").read_text(encoding="utf-8") == before
    assert "layers: 99" in _git(checkout, "stash", "show", "-p", "stash@{0}"), "what stood in the way is kept"
    mend(checkout)
    assert _git(checkout, "for-each-ref", "refs/inkwell") == ""


def test_a_checkout_that_went_on_is_left_alone(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "train.py").write_text("# mine\n", encoding="utf-8")
    keep(checkout)
    _git(checkout, "checkout", "-q", "train.py")
    (checkout / "later.py").write_text("# later\n", encoding="utf-8")
    _git(checkout, "add", "later.py")
    _git(checkout, "-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "-q", "-m", "Later")
    mend(checkout)
    assert "git stash list" in capsys.readouterr().err
    assert (checkout / "train.py").read_text() == TRAIN
    assert "# mine" in _git(checkout, "stash", "show", "-p", "stash@{0}")


def test_a_second_sweep_is_refused(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(checkout):
        assert main(["pretrain.layers=2,4", "--workspace", str(checkout)]) == 2
    assert "another sweep runs" in capsys.readouterr().err


def _alive(checkout: Path) -> list[str]:
    """Command lines of processes that work below the checkout."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(checkout)):
                found.append((process / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


def test_optuna_finds_more_than_chance_and_asks_the_same_again(tmp_path: Path) -> None:
    space = {"a.rate": Range(0.001, 0.1, log=True), "a.kind": ["x", "y"], "a.layers": Range(1, 8)}
    made = plan(tmp_path, space, trials=24)

    def searched() -> list[Trial]:
        trials: list[Trial] = []
        for number in range(24):
            values = suggested(made, number, trials)
            away = abs(values["a.rate"] - 0.02) * 100 + (values["a.kind"] == "y") + abs(values["a.layers"] - 5)
            trials.append(Trial(f"t{number}", number, values, "finished", away))
        return trials

    first = searched()
    assert isinstance(first[0].values["a.layers"], int)
    assert [trial.values for trial in searched()] == [trial.values for trial in first], "a choice was not kept"
    shutil.rmtree(made.place)
    assert [trial.values for trial in searched()] == [trial.values for trial in first], "the seed does not decide"
    early = sum(trial.objective or 0 for trial in first[:6]) / 6
    assert sum(trial.objective or 0 for trial in first[-6:]) / 6 < early
    shares = importance(made, first)
    assert set(shares) == set(space)
    assert sum(shares.values()) == pytest.approx(1)


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    made = plan(tmp_path, read_space(["a.b=1,2", "c=[x,y],[z]"], None))
    assert list(grid(made)) == [
        {"a.b": 1, "c": ["x", "y"]},
        {"a.b": 1, "c": ["z"]},
        {"a.b": 2, "c": ["x", "y"]},
        {"a.b": 2, "c": ["z"]},
    ]
    assert made.size() == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to sweep over"),
        (["pretrain.learning_rate"], "write it as section.key=a,b,c"),
        (["pretrain.learning_rat=1,2"], "has no parameter 'pretrain.learning_rat'"),
        (["pretrain.layers=1", "--objective", "pretrain"], "write it as stage.metric"),
        (["pretrain.layers=1", "--objective", "train.loss"], "there is no stage 'train'"),
        (["pretrain.layers=1", "--jobs", "0"], "--jobs must be at least 1"),
        (["pretrain.layers=1", "--minutes", "0"], "--minutes must be above 0"),
        (["pretrain.layers=1", "--trials", "5"], "--trials and --seed are for --optuna"),
        (["pretrain.layers=1", "--name", "a/b"], "letters, digits"),
        (["--space", "space.yaml"], "only --optuna can search"),
        (["--space", "none.yaml"], "cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(
    checkout: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    (checkout / "space.yaml").write_text("pretrain.learning_rate: {low: 0.001, high: 0.1, log: true}\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_without_git_is_told(workspace: Path) -> None:
    if Revision(workspace, "HEAD").read("dvc.yaml") is not None:
        pytest.skip("the temporary folder lies inside a Git repository")
    with pytest.raises(InkwellError, match="is in no Git repository"):
        Plan.make(workspace, {"left": [1, 2]}, "left.x", trials=None, seed=1)
