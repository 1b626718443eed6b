"""Drift: a corpus like the accepted one passes, another one is told with what changed, from what to what."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.configuration import Validate
from components.errors import InkwellError
from components.validate.accept import accept
from components.validate.accept import main as accept_command
from components.validate.drift import compare, cumulative, distance, divergence
from components.validate.profile import points
from tests.tiny_corpus import clean_rows
from tests.validate.conftest import Gate, documents, write


def _accept() -> Path:
    return accept([Path("out/data_docs")], Path("accepted"))


def _words(rng: random.Random, words: str, count: int) -> str:
    return " ".join(rng.choice(words.split()) for _ in range(count))


_RUSSIAN = "война мир князь бал зима снег поле шаг слово дом ночь день рука глаза голос"
_ENGLISH = "the union of states people law peace trade year land house work great one nation"


def test_the_same_corpus_and_another_draw_of_it_do_not_drift(gate: Gate) -> None:
    write(documents(300), dropped=20)
    first = gate()
    assert "drifted" not in first, "nothing was accepted yet"
    assert "No corpus named tiny was accepted yet" in Path("out/data_docs/index.html").read_text(encoding="utf-8")
    assert _accept() == Path("accepted/tiny.json")
    metrics = gate()
    assert metrics["drifted"] == 0
    assert metrics["drift_characters"] == metrics["drift_lengths"] == 0
    other = [row | {"content": new["content"], "text": new["text"]} for row, new in zip(documents(300), clean_rows(300, seed=8), strict=True)]  # fmt: skip
    write(other, dropped=15)
    metrics = gate()
    assert metrics["drifted"] == 0
    assert metrics["drift_characters"] > 0


@pytest.mark.parametrize(("language", "words"), [("ru", _RUSSIAN), ("en", _ENGLISH)], ids=["ru", "en"])
def test_another_language_is_told_from_what_to_what(
    gate: Gate, capsys: pytest.CaptureFixture[str], language: str, words: str
) -> None:
    write(documents(200))
    gate()
    _accept()
    rng = random.Random(3)
    rows = documents(200, language=language)
    for row in rows:
        row["text"] = row["content"] = _words(rng, words, 60)
    write(rows)
    metrics = gate()
    assert metrics["expectations_failed"] == 0
    assert metrics["drift_languages"] == metrics["drift_scripts"] == 1.0
    told = capsys.readouterr().err
    for name in ("languages", "scripts", "characters", "lengths", "statistics"):
        assert f"warning: drift_{name} (" in told
    for name in ("sources", "outcomes"):
        assert f"drift_{name}" not in told
    assert f"{language} 0.0% → 100.0%, zh 100.0% → 0.0%" in told
    page = Path("out/data_docs/drift.html").read_text(encoding="utf-8")
    assert "Every comparison" in page
    assert f"{language} 0.0% → 100.0%" in page


def test_drift_shuts_the_gate_where_asked_and_the_corpus_can_then_be_accepted(gate: Gate) -> None:
    write(documents(300))
    gate()
    _accept()
    write(documents(140))
    with pytest.raises(
        InkwellError, match=r"drift_size .* found 0\.533 \(300 → 140 documents.*accept the corpus"
    ) as failure:
        gate(levels={"drift_size": "stop"})
    assert "1 expectation(s) failed" in str(failure.value)
    accept([Path("out/data_docs"), Path(".inkwell/validate/validate")], Path("accepted"))
    assert gate(levels={"drift_size": "stop"})["drift_size"] == 0
    assert not Path(".inkwell/validate/validate").exists()


def test_what_the_tokenizer_depends_on_does_not_change_with_warnings_or_acceptance(gate: Gate) -> None:
    write(documents(300))
    gate()
    before = Path("out/validated/validation.json").read_bytes()
    _accept()
    profile = json.loads(Path("accepted/tiny.json").read_text(encoding="utf-8"))
    profile["shares"]["languages"] = {"ru": 1.0}
    Path("accepted/tiny.json").write_text(json.dumps(profile), encoding="utf-8")
    assert gate()["expectations_warned"] == 1
    assert Path("out/validated/validation.json").read_bytes() == before


def test_a_corpus_that_fails_otherwise_is_not_accepted_and_a_broken_profile_is_told(
    gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accept_command([]) == 2
    assert "reports/data_docs holds no profile.json: run `dvc repro validate` first." in capsys.readouterr().err
    write(documents(120))
    with pytest.raises(InkwellError):
        gate(minimum_documents=121)
    assert accept_command(["--accepted", "accepted"]) == 2
    assert "this corpus failed clean_documents and cannot be accepted" in capsys.readouterr().err
    Path(".inkwell/validate/validate/outcomes.json").unlink()
    assert accept_command(["--accepted", "accepted"]) == 2
    assert "outcomes.json does not say what was found" in capsys.readouterr().err
    Path("accepted").mkdir()
    profile = json.loads(Path(".inkwell/validate/validate/profile.json").read_text(encoding="utf-8"))
    without_read = {name: value for name, value in profile.items() if name != "read"}
    for text in ("{}", "[", '{"format": 99}', json.dumps(without_read)):
        Path("accepted/tiny.json").write_text(text)
        with pytest.raises(InkwellError, match=r"accepted/tiny\.json is (no|a) profile"):
            gate()


def test_the_accepted_corpus_is_named_after_its_sources_or_by_parameter(gate: Gate) -> None:
    write(documents(120))
    sources = [
        {"name": name, "kind": "path", "location": "a", "role": role}
        for name, role in (("tiny", "train"), ("an other", "train"), ("held", "evaluation"))
    ]
    off = {"raw_sources_present": "off"}
    gate(ingest={"sources": sources}, levels=off)
    assert _accept() == Path("accepted/an_other+tiny.json")
    gate(accepted="nightly")
    assert _accept() == Path("accepted/nightly.json")
    assert gate(accepted="nightly")["drifted"] == 0
    with pytest.raises(InkwellError, match="accepted"):
        gate(accepted="../elsewhere")


def test_divergence_is_nought_for_equals_and_one_bit_for_strangers() -> None:
    assert divergence({"a": 0.3, "b": 0.7}, {"b": 0.7, "a": 0.3}) == 0
    assert divergence({"a": 1.0}, {"b": 1.0}) == pytest.approx(1)
    # by hand: M = (0.75, 0.25): (log2(4/3) + 0.5 log2(2/3) + 0.5 log2(2)) / 2
    assert divergence({"a": 1.0}, {"a": 0.5, "b": 0.5}) == pytest.approx(0.311278, abs=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_distance_from_the_points_kept_is_near_the_exact_one(seed: int) -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(seed)
    draws: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = [
        (rng.normal(0, 1, 3000), rng.normal(0.5, 1, 2000)),
        (rng.poisson(3, 3000).astype(float), rng.poisson(4, 3000).astype(float)),  # many ties
        (np.zeros(500), np.r_[np.zeros(300), np.ones(200)]),
        (rng.lognormal(5, 2, 3000), rng.lognormal(5, 2, 3000)),
    ]
    for a, b in draws:
        found, value, including = distance(points(a), points(b))
        exact = ks_2samp(a, b).statistic
        assert found == pytest.approx(exact, abs=0.03)
        shares = [(side <= value).mean() if including else (side < value).mean() for side in (a, b)]
        assert abs(shares[0] - shares[1]) == pytest.approx(found, abs=0.05), "the sentence tells another change"


def test_cumulative_is_exact_at_the_points_and_keeps_ties() -> None:
    kept = points(np.array([1.0] * 60 + [2.0] * 30 + [9.0] * 10))
    values = np.array([0.5, 1.0, 1.5, 2.0, 9.0, 10.0])
    assert cumulative(kept, values, including=True) == pytest.approx([0, 0.6, 0.6, 0.9, 1, 1])
    assert cumulative(kept, values, including=False) == pytest.approx([0, 0, 0.6, 0.6, 0.9, 1])
    assert points(np.array([np.nan]))["count"] == 0


def test_chance_is_allowed_for_small_corpora() -> None:
    """Pairs of samples of one distribution: none may drift, though their distance is above the bound itself."""
    rng = np.random.default_rng(5)
    above = 0
    for _ in range(40):
        profiles = []
        for _ in range(2):
            lengths = rng.lognormal(4, 1, 40)
            languages = rng.choice(["zh", "ru", "en"], 40)
            shares = {name: float((languages == name).mean()) for name in ("en", "ru", "zh")}
            profiles.append(
                {
                    "documents": 40, "characters": 4000, "read": 40,
                    "shares": {"languages": shares}, "quantiles": {"lengths": points(lengths)},
                }
            )  # fmt: skip
        found = compare(profiles[0], profiles[1], Validate().drift)
        assert [one.what for one in found] == ["size", "languages", "lengths"]
        assert not any(one.drifted for one in found)
        above += sum(one.distance > bound for one, bound in zip(found[1:], (0.05, 0.2), strict=True))
    assert above > 5, "this test could not fail"
