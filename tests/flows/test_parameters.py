"""params.yaml and its documentation, composed from conf/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration import load, parse
from components.configuration.describe import describe
from components.errors import InkwellError
from flows.parameters import ROOT, command_line, compose, document, main, render

CONF = ROOT / "conf"
DEFAULT = ["corpus=tang", "size=laptop"]


def test_params_yaml_is_what_code_and_conf_say() -> None:
    expected = render(compose(CONF, DEFAULT), command_line(DEFAULT))
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == expected, f"run `{command_line(DEFAULT)}`"
    assert compose(CONF) == compose(CONF, DEFAULT)


def test_the_document_is_what_code_and_conf_say() -> None:
    assert (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8") == document(CONF), (
        "run `python -m flows.parameters --document docs/parameters.md`"
    )


def test_the_document_has_the_defaults_that_are_in_force() -> None:
    """A section may stand within another with other values than its class has: `sft.checkpoints`."""
    least = {"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}}
    values = parse(least).model_dump(mode="json", by_alias=True)
    checked = 0
    for line in document(CONF).splitlines():
        if not line.startswith("| `"):
            continue
        name, _, rest = line.removeprefix("| `").partition("` | ")
        default = rest.split(" | ")[1]
        if "." not in name or default == "required":
            continue  # of a list's items, or at the top
        found: Any = values
        for part in name.split("."):
            found = found[part]
        assert json.loads(default.strip("`").replace("\\|", "|")) == found, name
        checked += 1
    assert checked > 150
    assert "  sft.checkpoints.minutes (number, default 1.0): " in describe("sft")
    assert "  pretrain.checkpoints.minutes (number, default 2.0): " in describe("pretrain")


def test_a_preset_is_described_by_whole_sentences(tmp_path: Path) -> None:
    """Those that begin on the first line of its comment."""
    folder = tmp_path / "size"
    folder.mkdir()
    comments = {
        "whole": "# One line, as in docs/a.md.\n# Another.\npretrain: {}",
        "cut": "# @package _global_\n# First (arXiv 2405.21060). Second goes\n# on here (a.md). Third.\n#\na: 1\n# b",
        "endless": "# No stop\n# at all\na: 1\n# Nothing of this.",
        "none": "a: 1\n# Nothing of this.",
    }
    for name, text in comments.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    told = {line.split("`")[1]: line.split(" | ")[2] for line in document(tmp_path).splitlines() if "| size |" in line}
    assert told == {
        "cut": "First (arXiv 2405.21060). Second goes on here (a.md). |",
        "endless": "No stop at all |",
        "none": " |",
        "whole": "One line, as in docs/a.md. |",
    }


@pytest.mark.parametrize("size", sorted(path.stem for path in (CONF / "size").glob("*.yaml")))
@pytest.mark.parametrize("corpus", sorted(path.stem for path in (CONF / "corpus").glob("*.yaml")))
def test_what_is_written_reads_as_what_was_composed(corpus: str, size: str, tmp_path: Path) -> None:
    composed = compose(CONF, [f"corpus={corpus}", f"size={size}"])
    (tmp_path / "params.yaml").write_text(render(composed, "a command"), encoding="utf-8")
    assert load(tmp_path / "params.yaml") == composed


def test_yaml_1_2_reads_the_same_values(tmp_path: Path) -> None:
    """DVC reads params.yaml by YAML 1.2, where `off` is a word and 1e-5 a number."""
    from ruamel.yaml import YAML

    text = render(compose(CONF, ["size=smoke", "report.title='off'", "align.learning_rate=0.00001"]), "a command")
    assert YAML(typ="safe").load(text) == yaml.safe_load(text)


def test_an_own_corpus_takes_three_lines(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("language: en\ningest:\n  sources: [{name: mine, kind: path, location: ~/texts}]\n")
    composed = compose(CONF, [f"corpus={mine}", "size=smoke"])
    assert composed.language == "en"
    assert [source.location for source in composed.ingest.sources] == ["~/texts"]
    assert composed.pretrain.layers == compose(CONF, ["size=smoke"]).pretrain.layers
    assert composed.clean.template == "{text}"
    planned = compose(CONF, [f"corpus={mine}", "size=auto"])  # as the README has it
    assert planned.ingest.sources == composed.ingest.sources
    assert (planned.clean.template, planned.pretrain.dial.minutes) == ("{text}", 16)


def test_a_file_of_parameters_goes_over_the_groups_and_what_stands_behind_it_over_the_file(tmp_path: Path) -> None:
    ours = tmp_path / "ours.yaml"
    ours.write_text("clean: {denied: [tang-000017]}\npretrain:\n  steps: 7\nnotifications: {slack: 'env:HOOK'}\n")
    composed = compose(CONF, ["corpus=tang", "size=smoke", str(ours)])
    assert composed.clean.denied == ["tang-000017"]
    assert composed.pretrain.steps == 7
    assert composed.notifications.slack == "env:HOOK"
    smoke = compose(CONF, ["corpus=tang", "size=smoke"])
    assert composed.pretrain.layers == smoke.pretrain.layers
    assert composed.clean.model_copy(update={"denied": []}) == smoke.clean
    assert compose(CONF, [str(ours), "pretrain.steps=8", "size=smoke"]).pretrain.steps == 8
    ours.write_text("# nothing yet\n")
    assert compose(CONF, ["corpus=tang", "size=smoke", str(ours)]) == smoke


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clean: [unclosed", "ours.yaml cannot be read as YAML"),
        ("- clean", "ours.yaml holds no parameters"),
        ("clean: {denid: []}", "did you mean 'denied'"),
        (None, "ours.yaml cannot be read as YAML"),
    ],
)
def test_a_mistake_in_a_file_of_parameters_is_one_sentence(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = tmp_path / "ours.yaml"
    if text is not None:
        ours.write_text(text)
    assert main(["size=smoke", str(ours), "--output", str(tmp_path / "params.yaml")]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_values_are_yaml_and_reach_into_lists() -> None:
    composed = compose(
        CONF,
        [
            "ingest.sources.0.location=elsewhere",
            "clean.template='{title}: {text}'",
            "ingest.limit=null",
            "export.formats=[f16]",
        ],
    )
    assert composed.ingest.sources[0].location == "elsewhere"
    assert composed.ingest.sources[0].kind == "npm"
    assert composed.clean.template == "{title}: {text}"
    assert composed.export.formats == ["f16"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("size=enormous", "there is no size 'enormous'; known are auto, hour, laptop, night, proxy, smoke"),
        ("colour=red", "unknown parameter 'colour'"),
        ("pretrain.stepz=3", "did you mean 'steps'"),
        ("pretrain.layers=none", "pretrain.layers"),
        ("laptop", "group=name or section.key=value"),
        ("ingest.sources.7.name=x", "does not compose"),
        ("report.title='unclosed", "does not compose"),
    ],
)
def test_a_mistake_is_one_sentence(
    override: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "params.yaml"
    assert main([override, "--output", str(output)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not output.exists()


def test_a_folder_without_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match=r"holds no config\.yaml"):
        compose(tmp_path)
