"""The gate opens for good documents, shuts for bad ones, and its pages stand alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import InkwellError
from components.validate.check import LEVELS
from components.validate.clean import share_bounds
from tests.validate.conftest import (
    Gate,
    Rows,
    conversations,
    documents,
    preferences,
    write,
    write_conversations,
    write_preferences,
)


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_good_documents_pass_and_the_same_documents_give_the_same_bytes(gate: Gate) -> None:
    write(documents(200), dropped=50)
    metrics = gate()
    gate(output="again")
    assert metrics["expectations_failed"] == metrics["expectations_warned"] == 0
    assert metrics["expectations"] == sum(name.startswith(("raw", "clean")) for name in LEVELS)
    assert metrics["dropped_share"] == 0.2
    assert metrics["validation_share"] == 0.1
    assert json.loads(Path("out/validated/validation.json").read_text()) == {
        "success": True,
        "checked": {"raw": 250, "clean": 200},
    }
    names = files("out")
    assert names == [
        *(f"data_docs/{name}" for name in ("clean.html", "clean_suite.html", "index.html", "outcomes.json", "profile.json", "raw.html", "raw_suite.html")),
        "validated/validation.json",
    ]  # fmt: skip
    for name in names:
        assert (Path("out") / name).read_bytes() == (Path("again") / name).read_bytes()


def test_data_docs_refer_to_nothing_but_themselves(gate: Gate) -> None:
    write(documents(120))
    gate()
    for page in Path("out/data_docs").glob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert "<script" not in html
        assert "//" not in re.sub(r"/\*.*?\*/", "", html), "an address of another host"
        targets = re.findall(r'(?:href|src)="([^"]*)"', html)
        assert targets
        for target in targets:
            assert target.startswith("#") or (page.parent / target).exists(), target
        for anchor in (target[1:] for target in targets if target.startswith("#")):
            assert f'id="{anchor}"' in html
    for name in ("clean.html", "clean_suite.html"):
        html = Path("out/data_docs", name).read_text(encoding="utf-8")
        assert "There are enough documents: at least 100" in html
        assert "&lt;unk&gt;" in html


def _spoil(index: int, **values: Any) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[index].update(values)

    return change


def _copy(to: int, which: int, column: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[to][column] = rows[which][column]

    return change


def shut_by(message: str) -> dict[str, str]:
    """Names of the expectations in the sentence of a shut gate, each with what was found."""
    found = dict(
        re.findall(r"[:;] (?:raw|clean|conversations|preferences)_(\w+) \([^;]*?\) found (.*?), expected", message)
    )
    assert f"{len(found)} expectation(s) failed" in message, message
    return found


def test_each_broken_promise_of_clean_documents_shuts_the_gate_by_its_name(gate: Gate) -> None:
    rows = documents(120)
    write(rows)
    gate("clean")
    spoils = {
        "no_control_characters": _spoil(3, content="坏\x07字"),
        "no_markers": _spoil(4, content="Он <|im_end|>"),
        "document_characters": _spoil(5, content=""),
        "split_values": _spoil(6, split="test"),
        "present": _spoil(7, text=None),
        "repeats": _spoil(8, repeats=0),
        "held_out_once": _spoil(10, repeats=2),
        "topics": _spoil(11, topic=24),
        "languages": _spoil(12, language="Chinese"),
        "no_leak": _copy(20, 21, "content"),
        "clusters_undivided": _copy(30, 31, "cluster"),
        "unique_ids": _copy(41, 42, "id"),
    }
    for spoil in spoils.values():
        spoil(rows)
    write(rows)
    with pytest.raises(InkwellError) as failure:
        gate("clean")
    found = shut_by(str(failure.value))
    assert set(found) == set(spoils)
    two = {"no_leak", "clusters_undivided", "unique_ids"}
    assert all(said.startswith(f"{2 if name in two else 1} of 120") for name, said in found.items()), found
    assert not files("out"), "outputs of the earlier run, from which somebody may go on"


def test_each_broken_promise_of_raw_documents_shuts_the_gate_by_its_name(gate: Gate) -> None:
    rows = documents(40)
    spoils = {
        "text": _spoil(3, text=None),
        "unique_ids": _copy(4, 5, "id"),
        "source": _spoil(6, provenance={"source": "other", "origin": "sha256:0", "member": "m", "row": 0}),
        "origin": _spoil(7, provenance={"source": "tiny", "origin": "", "member": "m", "row": 0}),
        "row": _spoil(8, provenance={"source": "tiny", "origin": "sha256:0", "member": "m", "row": -1}),
    }
    for spoil in spoils.values():
        spoil(rows)
    write(rows)
    with pytest.raises(InkwellError) as failure:
        gate("raw")
    found = shut_by(str(failure.value))
    assert set(found) == set(spoils)
    assert found["source"] == "1 of 40, such as 'other' (id tiny-0006)"


def test_blank_and_undecoded_texts_are_counted_over_all_scripts(gate: Gate) -> None:
    rows = documents(40)
    for index, text in enumerate(["——", "…\n", "  ", "Ў"]):  # the last one is a word
        rows[index]["text"] = text
    rows[4]["text"] = "Война \ufffd\ufffd мир"
    write(rows)
    metrics = gate("raw")
    assert metrics["raw_blank_share"] == 3 / 40
    assert metrics["expectations_warned"] == 1
    rows[5]["text"] = rows[6]["text"] = "。"
    write(rows)
    with pytest.raises(InkwellError, match=r"raw_not_blank .* found 12\.50%, expected at most 10%"):
        gate("raw")


def test_a_source_without_documents_shuts_the_gate_in_any_role(gate: Gate) -> None:
    sources = [
        {"name": "tiny", "kind": "path", "location": "a"},
        {"name": "held", "kind": "path", "location": "b", "role": "evaluation"},
    ]
    write(documents(40))
    with pytest.raises(InkwellError, match=r"raw_sources_present .* found held"):
        gate("raw", ingest={"sources": sources})
    assert gate("raw", ingest={"sources": sources, "limit": 40})["expectations_warned"] == 0
    questions = documents(5)
    for row in questions:
        row["provenance"] = row["provenance"] | {"source": "held"}
    write(documents(40), roles={"evaluation": questions})
    with pytest.raises(InkwellError, match=r"raw_unique_ids .* 10 of 45"):
        gate("raw", ingest={"sources": sources})
    for row in questions:
        row["id"] = f"q-{row['id']}"
    write(documents(40), roles={"evaluation": questions})
    assert gate("raw", ingest={"sources": sources})["raw_documents"] == 40


def test_a_source_that_outweighs_the_others_is_told(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [{"name": name, "kind": "path", "location": "a"} for name in ("tiny", "rare")]
    rows = documents(40)
    rows[0]["provenance"] = rows[0]["provenance"] | {"source": "rare"}
    write(rows)
    assert gate("raw", ingest={"sources": sources})["expectations_warned"] == 0
    gate("raw", ingest={"sources": sources}, maximum_source_share=0.9)
    assert "raw_source_share (no source outweighs the others) found 97.5% from tiny" in capsys.readouterr().err


def test_documents_in_another_language_than_asked_for_shut_the_gate(gate: Gate) -> None:
    rows = documents(120)
    rows[7].update(language="ru", script="Cyrl", content="Война и мир")
    write(rows)
    with pytest.raises(InkwellError, match=r"clean_languages .* found 1 of 120, such as 'ru' \(id tiny-0007\)"):
        gate("clean", clean={"validation_fraction": 0.1, "languages": ["zh"]})


def test_a_document_that_was_neither_kept_nor_dropped_shuts_the_gate(gate: Gate) -> None:
    write(documents(120), dropped=10)
    from components.corpus.documents import removed_schema, write_documents

    write_documents(Path("clean/removed.parquet"), [], removed_schema())
    with pytest.raises(InkwellError, match=r"clean_counts .* found 120 kept \+ 0 dropped = 120, expected .* 130 read"):
        gate("clean")


@pytest.mark.parametrize(
    ("dropped", "parameters", "told", "found", "parameter"),
    [
        (0, {"minimum_documents": 121}, "documents", "found 120, expected at least 121", "validate.minimum_documents"),
        (0, {"minimum_characters": 10**6}, "characters", "expected at least 1,000,000", "validate.minimum_characters"),
        (
            0,
            {"maximum_document_characters": 20},
            "document_characters",
            "of 120",
            "validate.maximum_document_characters",
        ),
        (
            80,
            {"maximum_dropped_share": 0.3},
            "dropped_share",
            "found 40.0%, expected at most 30%",
            "validate.maximum_dropped_share",
        ),
    ],
)
def test_a_bound_that_is_missed_names_value_bound_and_parameter(
    gate: Gate, dropped: int, parameters: dict[str, Any], told: str, found: str, parameter: str
) -> None:
    write(documents(120), dropped)
    with pytest.raises(InkwellError) as failure:
        gate(**parameters)
    message = str(failure.value)
    assert f": clean_{told} (" in message
    assert found in message
    assert parameter in message
    assert "\n" not in message
    page = Path(".inkwell/validate/validate/index.html")
    assert str(page) in message
    assert "The gate is shut" in page.read_text(encoding="utf-8")


def test_levels_turn_a_stop_into_a_warning_or_leave_it_out(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    rows = documents(120)
    _spoil(3, content="坏\x07字")(rows)
    write(rows)
    metrics = gate("clean", levels={"clean_no_control_characters": "warn"})
    assert (metrics["expectations_failed"], metrics["expectations_warned"], metrics["expectations_off"]) == (0, 1, 0)
    assert "validate_clean: warning: clean_no_control_characters (" in capsys.readouterr().err
    index = Path("out/data_docs/index.html").read_text(encoding="utf-8")
    assert "The gate is open, with 1 warning(s)" in index
    assert "坏\\x07字" in index
    page = Path("out/data_docs/clean.html").read_text(encoding="utf-8")
    assert "text-warning" in page
    assert "Warnings only" in page
    assert "fa-times" not in page.split("</style>")[1]
    metrics = gate("clean", levels={"clean_no_control_characters": False})  # what YAML makes of a bare off
    assert (metrics["expectations_warned"], metrics["expectations_off"]) == (0, 1)
    assert capsys.readouterr().err == ""
    with pytest.raises(InkwellError, match=r"no expectation 'clean_leak'; did you mean 'clean_no_leak'\?"):
        gate("clean", levels={"clean_leak": "off"})
    with pytest.raises(InkwellError, match="levels"):
        gate("clean", levels={"clean_no_leak": "ignore"})


def test_too_few_held_out_documents_shut_the_gate(gate: Gate) -> None:
    rows = documents(400)
    for row in rows[1:]:
        row["split"] = "train"
    write(rows)
    with pytest.raises(InkwellError, match="clean_validation_share"):
        gate("clean")


def test_failing_examples_are_escaped_and_cut_short(gate: Gate) -> None:
    rows = documents(120)
    rows[3]["content"] = "<b>$title</b><s>" + "长" * 5000
    write(rows)
    with pytest.raises(InkwellError, match="clean_no_markers"):
        gate("clean")
    for page in Path(".inkwell/validate/validate_clean").glob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert "<b>$" not in html
        assert "长" * 300 not in html
        assert "rendering" not in html
    html = Path(".inkwell/validate/validate_clean/clean.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;$title&lt;/b&gt;&lt;s&gt;" in html


def test_the_allowed_share_widens_for_small_corpora_and_always_leaves_both_splits_a_document() -> None:
    assert share_bounds(100_000, 0.05, 0.5) == pytest.approx((0.025, 0.075))
    low, high = share_bounds(40, 0.05, 0.5)
    assert low == pytest.approx(1 / 40)
    assert 0.18 < high < 0.2
    assert share_bounds(2, 0.05, 0.5) == pytest.approx((0.5, 0.5))


def test_empty_documents_are_told_in_one_sentence(gate: Gate) -> None:
    write([])
    with pytest.raises(InkwellError, match="holds no documents"):
        gate("clean")
    with pytest.raises(InkwellError, match="raw_documents"):
        gate("raw")


def _turn(index: int, turn: int, **values: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[index]["messages"][turn].update(values)

    return change


def test_each_broken_promise_of_conversations_is_told_by_its_name(
    gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    write(documents(120))
    rows = conversations(documents(120))
    spoils = {
        "unique_ids": _copy(3, 4, "id"),
        "kinds": _spoil(5, kind="joke"),
        "documents": _spoil(6, document_id="nowhere"),
        "splits": _spoil(7, split="validation"),
        "roles": _turn(8, 0, role="assistant"),
        "turns": _turn(9, 0, content=" \u3000\n"),
        "no_markers": _turn(11, 1, content="春<s>山"),
        "no_control_characters": _turn(12, 1, content="Война\x00"),
    }
    for spoil in spoils.values():
        spoil(rows)
    rows[20]["messages"] = [dict(message) for message in rows[21]["messages"]]
    write_conversations(rows)
    with pytest.raises(InkwellError) as failure:
        gate("conversations")
    found = shut_by(str(failure.value))
    assert set(found) == set(spoils)
    assert found["roles"] == "1 of 120, such as 'assistant assistant' (id tiny-0008-0)"
    assert re.findall(r"warning: conversations_(\w+) ", capsys.readouterr().err) == ["no_leak"]


def test_good_conversations_pass_and_few_or_repeated_ones_are_told(
    gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    write(documents(120))
    rows = conversations(documents(120))
    write_conversations(rows)
    metrics = gate("conversations")
    assert metrics["expectations"] == sum(name.startswith("conversations") for name in LEVELS)
    assert (metrics["conversations_train"], metrics["conversations_validation"]) == (108, 12)
    assert metrics["expectations_warned"] == 0
    with pytest.raises(InkwellError, match=r"conversations_enough .* found 108, expected at least 109"):
        gate("conversations", minimum_conversations=109)
    for row in rows[1:60]:
        row["messages"], row["kind"] = rows[1]["messages"], "write"
    for row in rows:
        row["kind"] = "refusal" if row["kind"] == "who_wrote" else row["kind"].replace("write_in_style", "write")
    write_conversations(rows)
    gate("conversations")
    told = capsys.readouterr().err
    assert "conversations_kinds_present" in told
    assert "found write_in_style" in told
    assert "conversations_repeated (few conversations repeat an earlier one) found 48.3%" in told
    write_conversations([])
    with pytest.raises(InkwellError, match="conversations_enough"):
        gate("conversations")


def test_each_broken_promise_of_preferences_shuts_the_gate_by_its_name(gate: Gate) -> None:
    write(documents(60))
    pairs = preferences(documents(60))
    spoils = {
        "unique_ids": _copy(3, 4, "id"),
        "documents": _spoil(5, document_id="nowhere"),
        "splits": _spoil(6, document_id="tiny-0000"),
        "made": _spoil(7, made="bought"),
        "answers": _spoil(8, chosen=" \u3000"),
        "differ": _spoil(9, chosen="同", rejected="同"),
        "no_markers": _spoil(10, rejected="<|im_start|>"),
        "no_control_characters": _spoil(11, chosen="Война\x1b"),
        "roles": _spoil(12, prompt=[{"role": "user", "content": "写"}, {"role": "assistant", "content": "好"}]),
        "turns": _spoil(13, prompt=[{"role": "user", "content": "\n"}]),
    }
    for spoil in spoils.values():
        spoil(pairs)
    pairs[14]["rejected"] = ""
    write_preferences(pairs)
    with pytest.raises(InkwellError) as failure:
        gate("preferences")
    found = shut_by(str(failure.value))
    assert set(found) == set(spoils)
    assert found["answers"].startswith("2 of 54")
    assert found["splits"] == "1 of 54, such as 'validation' (id tiny-0007-0:x)"


def test_good_pairs_pass_and_pairs_that_length_tells_apart_are_told(
    gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    write(documents(60))
    pairs = preferences(documents(60))
    write_preferences(pairs)
    metrics = gate("preferences")
    assert metrics["expectations_warned"] == 0
    assert metrics["chosen_longer_share"] == 0.5
    assert metrics["expectations"] == sum(name.startswith("preferences") for name in LEVELS)
    for pair in pairs:
        pair["chosen"], pair["rejected"] = sorted((pair["chosen"], pair["rejected"]), key=len)
    write_preferences(pairs)
    gate("preferences")
    assert "preferences_length" in capsys.readouterr().err
    assert Path("out/data_docs/preferences.html").exists()


def test_the_command_line_picks_a_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from components.validate.__main__ import command

    monkeypatch.chdir(tmp_path)
    write(documents(120))
    parameters = {"ingest": {"sources": [{"name": "tiny", "kind": "path", "location": "a"}]}}
    Path("params.yaml").write_text(json.dumps(parameters | {"tracking": {"enabled": False}}))
    assert command(["--contract", "raw", "--raw", "raw"]) == 0
    assert json.loads(Path("metrics/validate_raw.json").read_text())["raw_documents"] == 120
    assert Path("reports/data_docs_raw/raw.html").exists()
    assert Path("data/validated_raw/validation.json").exists()
    assert command(["--contract", "conversations"]) == 2
    assert "data/clean (--clean) does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(["--contract", "everything"])
