"""The presets of conf/corpus: each composes, and what each is about is read right from a small copy of its layout."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration import Configuration
from components.ingest.turns import as_text, messages
from flows.parameters import compose
from tests.conftest import SHARED_WAR_AND_PEACE
from tests.ingest.conftest import Ingest, Outcome, arguments
from tests.tiny_corpus import poems

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "corpus").glob("*.yaml"))
SIZES = sorted(path.stem for path in (CONF / "size").glob("*.yaml"))


def preset(name: str, **changes: Any) -> list[dict[str, Any]]:
    """The preset's sources, the first of them with changes."""
    first, *others = compose(CONF, [f"corpus={name}"]).ingest.sources
    return [source.model_dump(exclude_unset=True) for source in (first.model_copy(update=changes), *others)]


@pytest.mark.parametrize("corpus", PRESETS)
@pytest.mark.parametrize("size", SIZES)
def test_every_preset_composes_with_every_size(corpus: str, size: str) -> None:
    composed = compose(CONF, [f"corpus={corpus}", f"size={size}"])
    assert isinstance(composed, Configuration)
    assert composed.language in ("zh", "ru", "en")
    assert all(source.license for source in composed.ingest.sources)
    names = [source.name for source in composed.ingest.sources]
    assert len(set(names)) == len(names)
    assert set(composed.clean.mixture.weights) <= set(names), "weights are given to sources that are there"


def test_the_presets_of_the_issue_are_there() -> None:
    assert {"tang", "tang-song", "war-and-peace", "english", "c4", "wizardlm", "web", "mixture"} <= set(PRESETS)


@pytest.mark.parametrize("corpus", PRESETS)
def test_every_preset_names_a_policy_of_which_the_statistics_are_measured(corpus: str) -> None:
    from components.corpus.policy import load_policy
    from components.corpus.statistics import STATISTICS

    composed = compose(CONF, [f"corpus={corpus}"])
    families = {"shape", "words", "repetition", "web", "verse", "dialogue"}
    policy = load_policy(composed.clean.policy).changed(composed.clean.rules)
    asked = {STATISTICS[name].family for name in policy.statistics()} & families
    assert asked <= set(composed.tag.families)


def test_poems_are_read_by_the_fields_of_the_default_corpus(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "poet.json").write_text(json.dumps(poems(30), ensure_ascii=False), encoding="utf-8")
    location = str(tmp_path / "poet.json")
    (source,) = preset("tang", kind="path", location=location, members=[], version=None, sha256=None)
    rows = ingest([source]).rows
    assert [(row["title"], row["author"], row["text"]) for row in rows] == [
        (poem["title"], poem["author"], "\n".join(poem["paragraphs"])) for poem in poems(30)
    ]


def test_parameters_with_every_value_spelt_out_read_a_text_without_titles(tmp_path: Path) -> None:
    from components.ingest.__main__ import STEP
    from components.step import main
    from flows.parameters import render

    (tmp_path / "a.txt").write_text("Текст без заглавия.", encoding="utf-8")
    composed = compose(CONF, ["corpus=war-and-peace", f"ingest.sources.0.location={tmp_path}/*.txt"])
    (tmp_path / "params.yaml").write_text(render(composed, "test"), encoding="utf-8")
    assert main(STEP, arguments(tmp_path)) == 0
    assert Outcome(0, "", tmp_path).texts == ["Текст без заглавия."]


# War and Peace: CRLF and lone CR become LF where bytes become text, in ingest; nothing else is changed there.


@pytest.mark.skipif(not SHARED_WAR_AND_PEACE.is_dir(), reason="the shared test data is not beside the project")
def test_war_and_peace_is_exactly_the_text(ingest: Ingest) -> None:
    (source,) = preset("war-and-peace", location=str(SHARED_WAR_AND_PEACE / "*.txt"))
    outcome = ingest([source])
    by_hand = [
        (SHARED_WAR_AND_PEACE / name).read_bytes().decode("cp1251").replace("\r\n", "\n")
        for name in ("wap1.txt", "wap2.txt")
    ]
    assert [len(text) for text in outcome.texts] == [len(text) for text in by_hand] == [1_680_047, 1_821_209]
    assert [sha256(text) for text in outcome.texts] == [sha256(text) for text in by_hand]
    assert sha256(outcome.texts[0]) == "27fc0d179d5a54ebf27144a52db819c076c0b159cb9f40644e86c2263e7752b9"
    assert sha256(outcome.texts[1]) == "8e9b843b359b2efb3199ad761974c39d5d8ba9bb4eb59a67ee027f49cc18eb55"
    first, second = outcome.texts
    assert "Eh bien, mon prince. G&#234;nes et Lueques ne sont plus que des apanages, des поместья" in first
    assert "Vive l'Empereur! Les voil&#224; donc les Steppes de l'Asie!" in second
    assert {member["encoding"] for member in outcome.sources[0]["members"]} == {"cp1251"}
    assert (outcome.metrics["bytes_replaced"], outcome.metrics["characters"]) == (0, 3_501_256)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


PROSE = [
    "— Eh bien, mon ami, vous voilà de retour, — сказала она, не вставая с кресла.",
    "Он поклонился и, помолчав, ответил: «Je vous remercie, madame, mais il faut que je parte ce soir».",
    "За окном шёл снег; кучер № 2 дремал на козлах… [1]",
]


def test_two_files_in_windows_1251_with_crlf_and_french_are_exactly_their_text(ingest: Ingest, tmp_path: Path) -> None:
    # windows-1251 has no accented letters: whoever typed French in it left the accents out (or spelt them &#224;).
    texts = [
        "\n".join(line.replace("à", "a") for line in PROSE) + "\n",
        "\n\n".join(PROSE[::-1] * 40).replace("à", "a"),
    ]
    for number, text in enumerate(texts, start=1):
        (tmp_path / f"wap{number}.txt").write_bytes(text.replace("\n", "\r\n").encode("windows-1251"))
    (source,) = preset("war-and-peace", location=str(tmp_path / "*.txt"))
    outcome = ingest([source])
    assert outcome.texts == texts
    assert all("\r" not in text and "Je vous remercie, madame, mais il faut" in text for text in outcome.texts)
    assert [member["encoding"] for member in outcome.sources[0]["members"]] == ["cp1251", "cp1251"]


# Hugging Face datasets, from a local folder in the layout of the hub


@pytest.fixture
def c4(tmp_path: Path) -> Path:
    """C4's layout: configurations by folder, named in the card, shards of packed lines with text, timestamp and address."""
    folder = tmp_path / "c4"
    (folder / "en").mkdir(parents=True)
    (folder / "ru").mkdir()
    configurations = [
        {"config_name": "en", "data_files": [{"split": "train", "path": "en/c4-train.*.json.gz"}]},
        {"config_name": "ru", "data_files": [{"split": "train", "path": "ru/c4-ru.*.json.gz"}]},
    ]
    card = yaml.safe_dump({"license": "odc-by", "configs": configurations}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{card}---\nC4\n", encoding="utf-8")
    for shard in range(2):
        (folder / "en" / f"c4-train.0000{shard}-of-00002.json.gz").write_bytes(pages(shard, "A page about rivers"))
    (folder / "ru" / "c4-ru.00000-of-00001.json.gz").write_bytes(pages(0, "Страница о реках"))
    return folder


def pages(shard: int, text: str) -> bytes:
    rows = [
        {
            "text": f"{text}, number {number}.",
            "timestamp": "2019-04-25T12:57:54Z",
            "url": f"https://example.org/{shard}/{number}",
        }
        for number in range(500)
    ]
    return gzip.compress("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())


def test_c4_is_read_from_a_local_copy_of_its_layout(ingest: Ingest, c4: Path) -> None:
    outcome = ingest(preset("c4", location=str(c4)))
    rows = outcome.rows
    assert len(rows) == 1000
    assert rows[501]["text"] == "A page about rivers, number 1."
    assert json.loads(rows[501]["metadata"])["url"] == "https://example.org/1/1"
    assert "2019" in json.loads(rows[501]["metadata"])["timestamp"]
    assert rows[501]["provenance"]["member"] == "en/train"
    assert outcome.sources[0]["location"] == "c4", "folders of this machine are nobody else's business"
    russian = ingest(preset("c4", location=str(c4), configuration="ru"))
    assert russian.texts[7] == "Страница о реках, number 7."


def test_a_limit_reads_no_further_shard(ingest: Ingest, c4: Path) -> None:
    (c4 / "en" / "c4-train.00001-of-00002.json.gz").write_bytes(b"this shard is no gzip file")
    source = preset("c4", location=str(c4))
    assert ingest(source, limit=10).texts == [f"A page about rivers, number {number}." for number in range(10)]
    broken = ingest(source)
    assert broken.status == 2
    assert "source 'c4'" in broken.said
    kept = ingest([{**source[0], "on_damage": "skip"}])
    assert len(kept.texts) == 500
    assert "cannot be read" in kept.sources[0]["members"][0]["damaged"]


TURNS = [
    [("human", "Write a line about rain."), ("gpt", "Rain again on the tin roof.")],
    [("human", "Назови реку."), ("gpt", "Нева."), ("human", "Ещё одну."), ("gpt", "Волга.")],
    [("human", "写一句春天。"), ("gpt", "春山半是云。")],
]


def rendered(outcome: Outcome) -> list[tuple[str, list[dict[str, str]]]]:
    return [(row["text"], json.loads(row["metadata"])["messages"]) for row in outcome.rows]


def test_wizardlm_is_read_from_a_local_copy_of_its_layout(ingest: Ingest, tmp_path: Path) -> None:
    folder = tmp_path / "wizard"
    folder.mkdir()
    rows = [
        {"idx": f"w{number}", "conversations": [{"from": who, "value": said} for who, said in turns]}
        for number, turns in enumerate(TURNS)
    ]
    (folder / "WizardLM_evol_instruct_V2_143k.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    outcome = ingest(preset("wizardlm", location=str(folder)))
    text, turns = rendered(outcome)[1]
    assert text == "user: Назови реку.\n\nassistant: Нева.\n\nuser: Ещё одну.\n\nassistant: Волга."
    assert turns[2:] == [{"role": "user", "content": "Ещё одну."}, {"role": "assistant", "content": "Волга."}]
    assert json.loads(outcome.rows[1]["metadata"])["idx"] == "w1"
    assert outcome.texts[2] == "user: 写一句春天。\n\nassistant: 春山半是云。"


def test_request_and_answer_in_fields_of_their_own_become_turns(ingest: Ingest, tmp_path: Path) -> None:
    rows = [
        {"instruction": "Переведи на русский.", "input": "river", "output": "река", "n": 1},
        {"instruction": "Назови цвет.", "input": "", "output": "синий", "n": 2},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    source = {"text_field": "output", "prompt_fields": ["instruction", "input"]}
    outcome = ingest(location=str(tmp_path / "a.json"), **source)
    assert outcome.texts == [
        "user: Переведи на русский.\n\nriver\n\nassistant: река",
        "user: Назови цвет.\n\nassistant: синий",
    ]
    assert [json.loads(row["metadata"])["n"] for row in outcome.rows] == [1, 2]
    assert rendered(outcome)[1][1][0] == {"role": "user", "content": "Назови цвет."}
    wrong = ingest(location=str(tmp_path / "a.json"), text_field="output", prompt_fields=["request"])
    assert wrong.status == 2
    assert "none of the fields request" in wrong.said


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([{"role": "System", "content": "a"}, {"role": "user", "content": "b"}], "system: a\n\nuser: b"),
        ([{"from": "observation", "value": "42"}], "observation: 42"),
        ([{"role": "user", "content": [{"type": "text", "text": "см."}, {"type": "image"}]}], "user: см."),
        (["a", "b"], None),
        ([], None),
        ([{"role": "user", "content": "b"}, {"title": "no turn"}], None),
        ("text", None),
    ],
)
def test_turns_are_recognised_by_their_fields(found: Any, expected: str | None) -> None:
    turns = messages(found)
    assert (as_text(turns) if turns else None) == expected


def test_a_list_of_records_that_are_no_turns_is_still_refused(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": [{"x": 1}]}', encoding="utf-8")
    assert "a list with a record in it" in ingest(location=str(tmp_path / "a.jsonl")).refused()
