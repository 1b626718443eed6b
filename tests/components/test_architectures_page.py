"""docs/architectures.md says what the code does."""

from __future__ import annotations

import re

from components.export import gguf_architectures
from components.export.gguf_file import FORMATS
from components.model.architectures import TABLE, count
from flows.parameters import ROOT, compose, groups
from tests.tiny_models import sharp, tiny

PAGE = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_architecture_has_its_class_and_a_word_for_every_step_and_format() -> None:
    found = {names(row[0])[0]: row[1:] for row in rows("What each can do")}
    assert {name: names(cells[0])[0] for name, cells in found.items()} == {n: one.model for n, one in TABLE.items()}
    for cells in found.values():
        assert len(cells) == 6 + len(FORMATS)
        assert all(cell.startswith(("yes", "as f16")) for cell in cells[1:])
        assert names(cells[0])[0] in gguf_architectures.TABLE


def test_the_parameters_that_each_reads_are_listed() -> None:
    shared = set(names(PAGE.split("## Which parameters each reads\n")[1].split(" count for all")[0]))
    found = {names(row[0])[0]: set(names(row[1])) for row in rows("Which parameters each reads")}
    assert found == {name: set(one.reads) - shared for name, one in TABLE.items()}
    assert all(shared <= set(one.reads) for one in TABLE.values())


def test_every_architecture_says_how_sequences_are_kept_apart() -> None:
    said = [name for row in rows("Sequences that share a row") for name in names(row[0])]
    assert sorted(said) == sorted(TABLE)
    alone = [names(row[0])[0] for row in rows("Sequences that share a row") if "a row of its own" in row[1]]
    assert alone == [name for name, one in TABLE.items() if not one.packs]


def test_what_gguf_refuses_is_listed_setting_by_setting() -> None:
    listed: dict[str, tuple[str, set[str]]] = {}
    for classes, graphs, settings in rows("What GGUF cannot hold"):
        for name, graph in zip(names(classes), names(graphs), strict=True):
            listed[name] = (graph, set(names(settings)))
    configs = {one.model: sharp(tiny(name)).config for name, one in TABLE.items()}
    configs["Qwen2ForCausalLM"] = configs[
        "LlamaForCausalLM"
    ]  # it is not built here; the rules are those of rotary models
    assert listed == {
        name: (entry.name, set(entry.refused(configs[name]))) for name, entry in gguf_architectures.TABLE.items()
    }


def test_presets_have_the_parameters_that_the_page_says() -> None:
    conf = ROOT / "conf"
    found = {names(row[0])[0]: row[1:] for row in rows("Presets")}
    assert sorted(found) == groups(conf)["model"]
    for name, (architecture, parameters, vocabulary) in found.items():
        shape = compose(conf, [f"model={name}"]).pretrain
        assert names(architecture) == [shape.architecture]
        total = count(shape, int(vocabulary.replace(",", ""))).total
        assert parameters.split("M")[0] == f"{total / 1e6:,.1f}"
