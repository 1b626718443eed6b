"""The tag step as a whole, and with clean behind it: every role, every pass, awkward texts, and `kill -9` in between."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration import Tag
from components.corpus.documents import clean_schema, raw_schema, removed_schema, write_documents
from components.corpus.tagged_documents import tagged_schema
from components.step import content_hash
from components.tag.normalise import Normaliser
from tests import curated
from tests.curated import raw_row
from tests.processes import ROOT, finish, start
from tests.tag.test_judge import answer, serving

_FAMILIES = ["shape", "words", "repetition", "web", "verse", "dialogue"]
_EVERYTHING: dict[str, Any] = {
    "families": _FAMILIES,
    "pii": {"email": True, "phone": True, "ip": True, "card": True},
    "lines": {"javascript": True, "policy": True},
    "topics": {"clusters": 3, "sample": 200},
    "perplexity": {"order": 3, "characters": 20_000},
    "duplicates": {"substring_characters": 60},
}

# Who, does, what, where, when: enough of each that two pages have little in common.
_PHRASES = {
    "en": [
        "the old teacher|a quiet neighbour|my younger sister|the captain of the ferry|an unknown painter|the village doctor"
        "|her grandmother|the last gardener|one of the sailors|the new librarian|a boy from the mill|the tired postman",
        "opened the window and watched|wrote a long letter about|could not forget|described to us|was looking for|had always wanted to see"
        "|walked slowly towards|told the children about|once lost his way near|made a small drawing of|returned in the end to|still remembers",
        "the silent garden|a bridge of grey stone|the first snow|the harbour with its lamps|an empty railway station|the road through the hills"
        "|a field of yellow flowers|the house by the river|that narrow street|the market at dawn|some forgotten chapel|the sea in winter",
        "and nobody asked for a reason|although it was getting dark|because the letter had come too late|while the others slept"
        "|as if nothing had happened|long before the war began|when the rain was over|with a lantern in one hand",
    ],
    "ru": [
        "старый учитель|тихая соседка|моя младшая сестра|капитан парома|неизвестный художник|сельский врач"
        "|её бабушка|последний садовник|один из матросов|новый библиотекарь|мальчик с мельницы|усталый почтальон",
        "открыл окно и увидел|долго вспоминал|так и не смог забыть|подробно описал нам|искал в тумане|всегда хотел увидеть"
        "|медленно шёл через|рассказал детям про|однажды нарисовал|издали заметил|в конце концов полюбил|до сих пор помнит",
        "пустынный сад|серый каменный мост|первый снег над полем|гавань с огнями|заброшенный вокзал|дорогу между холмами"
        "|поле жёлтых цветов|дом у самой реки|узкую кривую улицу|базар на рассвете|забытую часовню|зимнее море",
        "и никто не спросил его о причине|хотя на улице уже темнело|потому что письмо пришло слишком поздно|пока все остальные спали"
        "|как будто ничего не случилось|задолго до начала войны|когда дождь наконец прошёл|с фонарём в руке",
    ],
    "zh": [
        "年老的教师|安静的邻居|我的妹妹|渡船的船长|一位无名画家|村里的医生|她的外祖母|最后一个园丁|水手当中的一个|新来的图书管理员|磨坊里的男孩|疲倦的邮差",
        "打开窗户望着|写信谈起了|始终没有忘记|向我们描述过|在雾里寻找|一直都想看看|慢慢地走向|给孩子们讲过|曾经迷路在|随手画下了|最后回到了|至今还记得",
        "寂静的花园|灰色石桥|山上的初雪|亮着灯的港湾|空无一人的车站|穿过丘陵的路|开满黄花的田野|河边那座房子|那条狭窄的街|清晨的集市|被遗忘的小庙|冬天的大海",
        "谁也没有问原因|虽然天已经黑了|因为信来得太晚|那时别人都睡着|好像什么都没发生|那是战争开始以前的事|直到雨停下来|手里提着一盏灯",
    ],
}


def pages(language: str, count: int, seed: int = 1, sentences: int = 9) -> list[str]:
    """`count` texts of whole sentences, as a page of the web holds them: two paragraphs of several lines."""
    rng = random.Random(f"{language} {seed}")
    slots = [phrases.split("|") for phrases in _PHRASES[language]]
    written = []
    for _ in range(count):
        chosen = [[*slot] for slot in slots]
        for slot in chosen:
            rng.shuffle(slot)
        lines = []
        for number in range(sentences):
            parts = [slot[number % len(slot)] for slot in chosen]
            line = "".join([*parts[:3], "，", parts[3]]) if language == "zh" else " ".join(parts[:3]) + f", {parts[3]}"
            lines.append(line.capitalize() + ("。" if language == "zh" else "."))
        middle = sentences // 2
        join = "" if language == "zh" else " "
        written.append(join.join(lines[:middle]) + "\n\n" + join.join(lines[middle:]))
    return written


def _columns(folder: Path) -> list[dict[str, Any]]:
    return curated.rows_of(folder / "tagged/documents.parquet", tagged_schema())


def _kept(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in curated.rows_of(folder / "clean/documents.parquet", clean_schema())}


def _removed(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in curated.rows_of(folder / "clean/removed.parquet", removed_schema())}


def _balanced(metrics: dict[str, float], documents: int) -> None:
    assert metrics["documents_in"] == documents == metrics["documents_kept"] + metrics["documents_dropped"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_role_has_its_effect_in_three_languages(tmp_path: Path) -> None:
    texts = [text for language in ("zh", "ru", "en") for text in pages(language, 12, sentences=5)]
    questions = {language: pages(language, 1, seed=99, sentences=1)[0].strip() for language in ("zh", "ru", "en")}
    answers = [f"{text}\n{questions[language]}" for language in questions for text in pages(language, 1, 50, 3)]
    good = [text for language in ("zh", "ru", "en") for text in pages(language, 20, seed=2, sentences=3)]
    bad = ["".join(random.Random(number).sample(text, len(text))) for number, text in enumerate(good)]
    noise = ["".join(random.Random(number).sample(text, len(text))) for number, text in enumerate(texts[::6], 200)]
    rows = [*texts, *answers, *noise]
    roles = {
        "evaluation": [
            {**raw_row(text, number), "provenance": {**raw_row("", 0)["provenance"], "source": f"quiz-{language}"}}
            for number, (language, text) in enumerate(questions.items())
        ],
        "good": good,
        "bad": bad,
        "reference": [text for language in ("zh", "ru", "en") for text in pages(language, 10, seed=3)],
    }
    metrics = curated.tag(tmp_path, rows, roles=roles, perplexity={"order": 4}).metrics
    assert metrics["evaluation_sets"] == 3
    assert metrics["quality_good_examples"] == len(good)
    assert metrics["quality_accuracy"] > 0.9
    assert metrics["perplexity_models"] == 1, "the reference, not two halves of the corpus"
    tagged = _columns(tmp_path)
    assert len(tagged) == len(rows)
    hits = {row["id"]: row["contaminated_by"] for row in tagged if row["contaminated_by"]}
    assert {name: hit.split("/")[0] for name, hit in hits.items()} == {
        "doc-36": "quiz-zh",
        "doc-37": "quiz-ru",
        "doc-38": "quiz-en",
    }
    quality = [row["tags"]["quality"] for row in tagged]
    bits = [row["tags"]["perplexity"] for row in tagged]
    assert max(quality[39:]) < 0.5 < min(quality[:36])
    assert max(bits[:36]) < min(bits[39:]), "what resembles the reference is expected, what is shuffled is not"
    _balanced(curated.clean(tmp_path).metrics, len(rows))
    removed = _removed(tmp_path)
    for name, language in (("doc-36", "zh"), ("doc-37", "ru"), ("doc-38", "en")):
        assert removed[name]["rule"] == "contaminated"
        assert f"quiz-{language}" in removed[name]["reason"]


_RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
_FRENCH = "Le cœur a ses raisons que la raison ne connaît point ; déjà, cet été, un garçon nous l'a répété."
_CHINESE = "落花时节又逢君，江上何人初见月。"
# Text, the rule that drops it (None: it is kept), and what it has become (None: the same).
_AWKWARD: list[tuple[str | None, str | None, str | None]] = [
    ("а" * 1_000_000, "endless_run", None),
    ("\0" * 5_000, "empty", ""),
    ("春\0山\0秋\0水\0" * 8, None, "春山秋水" * 8),
    ("\u0301\u0308" * 500, "empty", None),
    ("one line of very many words " * 185_000, None, ("one line of very many words " * 185_000).strip()),
    ("", "empty", None),
    (None, "empty", ""),
    (" \t\u3000\n\n\r\n", "empty", ""),
    (_RUSSIAN.encode("cp1251").decode("latin-1"), None, _RUSSIAN),
    (_FRENCH.encode().decode("cp1252"), None, _FRENCH),
    ("床前明月光，疑是地上霜。举头望明月。".encode().decode("latin-1"), None, "床前明月光，疑是地上霜。举头望明月。"),
    ("في البدء كان الكلمة، والكلمة كان عند الله.", None, None),
    ("\u200fבראשית ברא אלהים\u200e את השמים ואת הארץ", None, None),
    ("😀😃👨‍👩‍👧‍👦🏴󠁧󠁢󠁳󠁣󠁴󠁿" * 40, "empty", None),
    ("雨😀😃😄" * 20, "symbols", None),
    ("Мы ехали 😀 целый день 👨‍👩‍👧‍👦 и никого не встретили.", None, None),
    ("\ue000\U0010ffff\ufdd0" * 40, "empty", None),
    ("\ufffd" * 40, "empty", None),
    ("Z̸̢̛a̸l̸g̸o̷ ҉" * 30, None, None),
    ("\n".join("字" for _ in range(30_000)), "repeated_lines", None),
    (_CHINESE, None, None),
    (_CHINESE.replace("，", "\u2028"), "exact_duplicate", _CHINESE.replace("，", "\n")),
]


def test_awkward_documents_are_kept_or_dropped_with_a_reason_in_little_time_and_memory(tmp_path: Path) -> None:
    params = {"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}, "language": "ru"}
    params["tag"] = _EVERYTHING | {"workers": 1, "topics": {"clusters": 0}}
    rows = [raw_row(text, number) for number, (text, _, _) in enumerate(_AWKWARD)]
    write_documents(tmp_path / "data/raw/documents.parquet", rows, raw_schema())
    for step in ("tag", "clean"):
        finish(start(step, tmp_path, yaml.safe_dump(params)))
    of_tag, of_clean = (json.loads((tmp_path / f"metrics/{step}.json").read_text()) for step in ("tag", "clean"))
    _balanced(of_clean, len(rows))
    assert of_tag["peak_gib"] < 1
    assert of_tag["mojibake_repaired"] > len(_RUSSIAN) // 2
    tagged = {row["id"]: row for row in curated.rows_of(tmp_path / "data/tagged/documents.parquet", tagged_schema())}
    kept, removed = _kept(tmp_path / "data"), _removed(tmp_path / "data")
    assert not kept.keys() & removed.keys()
    for number, (text, rule, becomes) in enumerate(_AWKWARD):
        row = tagged[f"doc-{number}"]
        assert row["text"] == (text if becomes is None else becomes), number
        found = removed.get(f"doc-{number}")
        assert (found and found["rule"]) == rule, (number, found)
        assert found is None or found["reason"], number
        repaired = row["tags"]["mojibake_repaired"]
        assert (repaired > 0) == (number in (8, 9, 10)), number
    assert tagged["doc-0"]["tags"]["longest_run"] == 1_000_000
    languages = {name: tagged[name]["language"] for name in ("doc-2", "doc-8", "doc-9", "doc-11", "doc-12", "doc-15")}
    assert list(languages.values()) == ["zh", "ru", "fr", "ar", "he", "ru"]


@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
def test_cyrillic_that_was_read_as_western_is_repaired_in_short_lines_too(wrong: str) -> None:
    normalise = Normaliser(Tag())
    text = f"{_RUSSIAN}\n— Да.\n\n— Mon cher, сказал он.\n\n{pages('ru', 1)[0]}"
    damaged = text.encode("cp1251").decode(wrong)
    assert damaged != text
    repaired, count = normalise.body(f"Café de Flore, déjà vu\n{damaged}")
    assert repaired == f"Café de Flore, déjà vu\n{text}"
    assert count > len(text) // 2


@pytest.mark.parametrize(
    "text",
    [
        _FRENCH,
        "à, è, é, ì, í, ò, ó, ù, ú, À, È, É, ÀÈÒÍ",
        "ÄÖÜäöüß ÀÈÌÒÙàèìòù âêîôû",
        "Þórður á Íslandi sá þá það sem þú sást, en áður en við fórum.",
        "Đường về nhà hôm nay rất đẹp và mát, ai cũng vui.",
        "Ήταν μια φορά και έναν καιρό ένας βασιλιάς",
        "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Zażółć gęślą jaźń!",
        f"{_RUSSIAN} № 5, 25 м², «ёлка»…",
    ],
)
def test_what_was_read_rightly_is_left_alone(text: str) -> None:
    assert Normaliser(Tag()).body(text) == (text, 0)


def test_what_was_taken_out_is_counted(tmp_path: Path) -> None:
    zh, ru, en = (pages(language, 1)[0] for language in ("zh", "ru", "en"))
    rows = [
        f"{zh}\n请发邮件到 li.bai@example.com 或致电 138 0013 8000。",
        f"{ru}\nВключите JavaScript, чтобы читать дальше.\nПишите: anna@example.org, тел. +7 495 123-45-67",
        f"{en}\nPlease enable JavaScript.\nWe use cookies to improve this site.\nCard 4111 1111 1111 1111, host 93.184.216.34.",
        _FRENCH.encode().decode("cp1252"),
    ]
    metrics = curated.tag(tmp_path, rows, **{name: _EVERYTHING[name] for name in ("families", "pii", "lines")}).metrics
    assert metrics["lines_taken_out"] == 3
    assert metrics["characters_of_lines_taken_out"] >= sum(
        map(len, rows[1].split("\n")[-2:-1] + rows[2].split("\n")[-3:-1])
    )
    assert {name: metrics[name] for name in metrics if name.startswith("pii_")} == {
        "pii_emails": 2,
        "pii_phones": 2,
        "pii_ips": 1,
        "pii_cards": 1,
    }
    assert metrics["mojibake_repaired"] == _columns(tmp_path)[3]["tags"]["mojibake_repaired"] > 0
    shown = [row["text"].split("\n")[-1] for row in _columns(tmp_path)]
    assert shown[0] == "请发邮件到 <email> 或致电 <phone>。"
    assert shown[1] == "Пишите: <email>, тел. <phone>"
    assert shown[2] == "Card <card>, host <ip>."
    told = json.loads((tmp_path / "tagged/summary.json").read_text(encoding="utf-8"))["counts"]
    assert told["pii_emails"] == 2


def test_repeated_passages_are_found_and_cut_and_none_is_lost(tmp_path: Path) -> None:
    zh, ru = pages("zh", 4, sentences=6), pages("ru", 4, sentences=6)
    quoted = "落霞与孤鹜齐飞，秋水共长天一色。渔舟唱晚，响穷彭蠡之滨；雁阵惊寒，声断衡阳之浦。"
    rows = [
        f"{zh[0]}子丑寅{quoted}",
        f"{zh[1]}甲乙丙{quoted}末句各不相同。",
        quoted,
        ru[0],
        f"{ru[0]} Короткая приписка в конце.",  # longer than the one before it, and so preferred to it
        *zh[2:],
        *ru[1:],
    ]
    curated.tag(tmp_path, rows, duplicates={"substring_characters": 30})
    tagged = _columns(tmp_path)
    [span] = tagged[1]["repeated_spans"]
    assert tagged[1]["text"][span["start"] : span["end"]] == quoted
    assert tagged[2]["tags"]["substrings"] == 1
    assert tagged[0]["repeated_spans"] == []
    _balanced(curated.clean(tmp_path, substrings="cut").metrics, len(rows))
    kept, removed = _kept(tmp_path), _removed(tmp_path)
    assert kept["doc-0"]["content"] == rows[0]
    assert kept["doc-1"]["content"] == f"{zh[1]}甲乙丙末句各不相同。"
    assert removed["doc-2"]["rule"] == "repeated_elsewhere"
    assert removed["doc-4"]["duplicate_of"] == "doc-3"
    contents = "\n".join(row["content"] for row in kept.values())
    assert contents.count(quoted) == 1
    assert contents.count(ru[0]) == 1, "what a document loses stands in one that stays"


def test_a_bloom_filter_drops_copies_and_says_that_it_was_a_filter(tmp_path: Path) -> None:
    texts = [text for language in ("zh", "ru", "en") for text in pages(language, 5, sentences=3)]
    rows = [*texts, *(text.upper() for text in texts[::5]), pages("en", 6, sentences=3)[5]]
    metrics = curated.tag(tmp_path, rows, duplicates={"bloom": True}).metrics
    assert metrics["bloom_hits"] == 3
    _balanced(curated.clean(tmp_path).metrics, len(rows))
    removed = _removed(tmp_path)
    assert sorted(removed) == ["doc-15", "doc-16", "doc-17"]
    for row in removed.values():
        assert (row["rule"], row["duplicate_of"]) == ("exact_duplicate", None)
        assert "Bloom filter" in row["reason"]
    assert len(curated.rows_of(tmp_path / "clean/documents.parquet", clean_schema())) == 16


def test_the_recipe_for_the_web_holds_each_language_to_its_own_bounds(tmp_path: Path) -> None:
    texts = {language: pages(language, 15, sentences=11) for language in ("zh", "ru", "en")}
    good = [text for some in texts.values() for text in some]
    menus = [
        "首页\n新闻\n关于我们\n联系方式\n" * 12,
        "Главная\nНовости\nО нас\nКонтакты\n" * 12,
        "Home\nNews\nAbout us\nContact\n" * 12,
    ]
    code = "function show() { return 1; } " + texts["en"][0]
    braces = "Функция записана так: { вернуть единицу }. " + texts["ru"][0]
    rows = [*good, *menus, code, braces, pages("en", 1, seed=9)[0][:120]]
    curated.tag(tmp_path, rows, **_EVERYTHING)
    assert [row["language"] for row in _columns(tmp_path)[:45]] == ["zh"] * 15 + ["ru"] * 15 + ["en"] * 15
    metrics = curated.clean(tmp_path, policy="web", near_duplicates=False).metrics
    _balanced(metrics, len(rows))
    removed = _removed(tmp_path)
    assert set(removed) == {"doc-45", "doc-46", "doc-47", "doc-48", "doc-50"}
    assert removed["doc-48"]["rule"] == "braces", "C4's rule, which FineWeb-2 asks of English only"
    assert removed["doc-50"]["rule"] == "word_count"
    assert (removed["doc-50"]["value"], removed["doc-50"]["threshold"]) == (pytest.approx(20, abs=8), 50)
    told = json.loads((tmp_path / "clean/summary.json").read_text(encoding="utf-8"))["policy"]["rules"]
    assert told["zh"]["word_count"]["minimum"] > told["en"]["word_count"]["minimum"]
    assert "short_lines" in told["en"]
    assert "short_lines" not in told["ru"]
    chinese = curated.clean(tmp_path, policy="web", near_duplicates=False, languages=["zh"]).metrics
    assert chinese["documents_kept"] == 15
    assert {row["language"] for row in _kept(tmp_path).values()} == {"zh"}


def test_sources_are_mixed_by_their_shares(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for language, count in (("zh", 30), ("ru", 10), ("en", 20)):
        for text in pages(language, count):
            row = raw_row(text, len(rows))
            rows.append({**row, "provenance": {**row["provenance"], "source": language}})
    curated.tag(tmp_path, rows)
    metrics = curated.clean(
        tmp_path, mixture={"by": "share", "weights": {"zh": 1, "ru": 1, "en": 0}}, near_duplicates=False
    ).metrics
    _balanced(metrics, 60)
    assert {row["id"] for row in _removed(tmp_path).values() if row["rule"] == "mixture"} >= {
        f"doc-{number}" for number in range(40, 60)
    }
    train = [row for row in _kept(tmp_path).values() if row["split"] == "train"]
    read = {
        source: sum(len(row["text"]) * row["repeats"] for row in train if row["provenance"]["source"] == source)
        for source in ("zh", "ru")
    }
    assert 0.6 < read["zh"] / read["ru"] < 1.6


def test_a_parameter_of_clean_measures_nothing_again(tmp_path: Path) -> None:
    texts = pages("zh", 20)
    curated.tag(tmp_path, texts)
    before = {path.name: (path.stat().st_mtime_ns, content_hash(path)) for path in (tmp_path / "tagged").iterdir()}
    every = curated.clean(tmp_path).metrics
    fewer = curated.clean(tmp_path, rules={"too_short": {"minimum": sorted(map(len, texts))[10]}}).metrics
    assert every["documents_kept"] > fewer["documents_kept"]
    assert before == {
        path.name: (path.stat().st_mtime_ns, content_hash(path)) for path in (tmp_path / "tagged").iterdir()
    }
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert not [name for name in stages["tag"]["params"] if name.split(".")[0] == "clean"]
    assert "clean" in stages["clean"]["params"]
    # Nor do policies, which are parameters in files of their own.
    assert not [path for path in stages["tag"]["deps"] if path.startswith(("components/clean", "components/polic"))]
    assert "components/corpus/policies" in stages["clean"]["deps"]


def test_a_judge_is_asked_about_a_sample_once(tmp_path: Path) -> None:
    texts = [*pages("zh", 4), *pages("ru", 4)]
    with serving(lambda number, body: answer("4" if "教师" in body["messages"][0]["content"] else "1")) as service:
        judge = {"address": service.address, "sample": 5, "per_minute": 60_000, "characters": 500, "prompt": "? {text}"}
        curated.tag(tmp_path, texts, judge=judge)
        asked = list(service.questions)
        first = content_hash(tmp_path / "tagged")
        curated.tag(tmp_path, texts, judge=judge)
        assert service.questions == asked, "the answers are kept from run to run"
    assert content_hash(tmp_path / "tagged") == first
    tagged = _columns(tmp_path)
    scored = [row for row in tagged if row["tags"]["judge"] is not None]
    assert len(asked) == len(scored) == 5
    for row in scored:
        assert f"? {row['text'][:500]}" in asked
        assert row["tags"]["judge"] == (4 if "教师" in row["text"][:500] else 1)


_PARAMS = yaml.safe_dump(
    {
        "ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]},
        "language": "zh",
        "tag": _EVERYTHING | {"workers": 1},
    }
)


def _raw(folder: Path, texts: Sequence[str], batch: int) -> None:
    """Raw documents in row groups of `batch`, each of which is a part of the first pass."""
    rows = [raw_row(text, number) for number, text in enumerate(texts)]
    write_documents(folder / "data/raw/documents.parquet", rows, raw_schema(), batch=batch)


def _parts(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(".inkwell/work/tag/*/parts/[0-9]*.parquet")}


def _kill_after(process: subprocess.Popen[str], folder: Path, parts: int) -> dict[str, int]:
    """SIGKILL once that many parts of the first pass stand; returns those that do."""
    patience = time.monotonic() + 240
    while len(_parts(folder)) < parts:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < patience
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return _parts(folder)


def test_killed_in_the_first_pass_it_goes_on_behind_what_is_finished(tmp_path: Path) -> None:
    texts = [text for number in range(80) for some in ("zh", "ru", "en") for text in pages(some, 4, number)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        _raw(folder, texts, batch=60)
    finish(start("tag", whole, _PARAMS))
    assert not list((whole / ".inkwell/work/tag").glob("*")), "the parts of a finished run are removed"
    two = ("--set", "tag.workers=2")
    finished = _kill_after(start("tag", killed, _PARAMS, *two), killed, 3)
    assert 3 <= len(finished) < 16
    assert not (killed / "data/tagged").exists()
    # The figures cannot be written, so that the parts stay.
    finish(start("tag", killed, _PARAMS, *two, "--metrics", "params.yaml/metrics.json"), status=1)
    parts = _parts(killed)
    assert len(parts) == 16
    assert {name: parts[name] for name in finished} == finished, "finished parts are not worked on again"
    assert content_hash(killed / "data/tagged") == content_hash(whole / "data/tagged"), "nor does it matter who worked"
