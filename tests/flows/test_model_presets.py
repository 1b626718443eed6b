"""The presets of conf/model/: each composes, can be built, and has the parameters that its name and its comment say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.configuration import load
from components.model.architectures import Count, check, count
from components.pretrain.dial import CorpusFacts, turn
from components.pretrain.ladder import SHAPE
from components.pretrain.pace import Pace
from components.pretrain.planning import law
from components.pretrain.transfer import learning_rates
from flows.parameters import ROOT, compose, compose_values, groups, render

CONF = ROOT / "conf"
PRESETS = groups(CONF)["model"]
GPT2 = 50_257  # tokens

# preset -> vocabulary of its source (or of our laptop preset), millions of parameters that its name stands for
NAMED = {
    "nanogpt-30m": (GPT2, 30),
    "nanogpt-124m": (GPT2, 124),
    "nanogpt-757m": (GPT2, 757),
    "tinyllama": (32_000, 1_100),
    "smollm2-135m": (49_152, 134.5),
    "mymistral": (4_096, 31.5),
    "mixtral-22m": (4_096, 22.2),
    "mamba2-7m": (4_096, 7.3),
}


def counted(preset: str, vocabulary: int) -> Count:
    return count(compose(CONF, [f"model={preset}"]).pretrain, vocabulary)


def first_comment(preset: str) -> str:
    return (CONF / "model" / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize(("preset", "vocabulary", "millions"), [(name, *said) for name, said in NAMED.items()])
def test_a_preset_has_the_parameters_of_its_name_and_comment(preset: str, vocabulary: int, millions: float) -> None:
    assert counted(preset, vocabulary).total / 1e6 == pytest.approx(millions, rel=0.005)
    comment = first_comment(preset)
    assert f"{vocabulary:,} tokens" in comment
    said = re.search(r"([\d,.]+)M parameters", comment)
    assert said
    assert float(said[1].replace(",", "")) == pytest.approx(millions)


def test_mingpt_has_its_86_million_without_the_head() -> None:
    """minGPT prints the parameters of blocks, positions and input embeddings; its characters are not known here."""
    for vocabulary, millions in ((0, 85.08), (1_200, 86.0)):
        found = counted("mingpt", max(vocabulary, 1))
        head = max(vocabulary, 1) * 768
        assert (found.total - head) / 1e6 == pytest.approx(millions, abs=0.01)
    assert "85.1M parameters" in first_comment("mingpt")


def test_a_token_meets_the_experts_that_the_comment_says() -> None:
    assert "a token meets 8.0M" in first_comment("mixtral-22m")
    assert counted("mixtral-22m", 4_096).active / 1e6 == pytest.approx(8.0, abs=0.05)


@pytest.mark.parametrize("preset", PRESETS)
def test_rates_are_those_of_the_width(preset: str) -> None:
    """In the laptop's batches; tied embeddings learn with the head."""
    found = compose(CONF, [f"model={preset}"]).pretrain
    for name, rate in learning_rates("muon", found.hidden_size).items():
        assert getattr(found, name) == pytest.approx(rate, rel=1e-4), name


def test_every_preset_is_checked_here() -> None:
    assert set(PRESETS) == {"mingpt", *NAMED}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_composes_with_a_corpus_and_a_size(preset: str, tmp_path: Path) -> None:
    composed = compose(CONF, ["corpus=tang", "size=smoke", f"model={preset}", "pretrain.steps=7"])
    check(composed.pretrain)
    assert composed.pretrain.steps == 7
    assert composed.pretrain.block <= composed.pretrain.context
    own = compose_values(CONF, [f"model={preset}"])["pretrain"]
    assert {"architecture", "hidden_size", "layers", "heads"} <= set(own)
    assert composed.pretrain.hidden_size == own["hidden_size"], "a model's shape stands over a size's"
    (tmp_path / "params.yaml").write_text(render(composed, "a command"), encoding="utf-8")
    assert load(tmp_path / "params.yaml") == composed


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_with_a_dial_is_that_model(preset: str) -> None:
    """The dial plans batch, steps and rates for it; without a preset it takes a shape of its own."""
    written = compose(CONF, ["size=auto", f"model={preset}"]).pretrain
    corpus, fast = CorpusFacts(2_500_000_000, 3_000_000), Pace(((256, 1e14),))
    found = turn(written, corpus, 32_000, fast, law())
    shape = ("architecture", *SHAPE, "experts", "state_size", "sliding_window", "block", "context", "dropout")
    for name in (*shape, "residual_dropout"):
        assert getattr(found, name) == getattr(written, name), name
    assert count(found, 32_000) == count(compose(CONF, [f"model={preset}"]).pretrain, 32_000)
    assert found.steps != written.steps
    own = turn(compose(CONF, ["size=auto"]).pretrain, corpus, 32_000, fast, law())
    assert count(own, 32_000) != count(found, 32_000)


def test_without_a_model_the_size_sets_the_shape() -> None:
    assert compose(CONF, ["size=smoke"]).pretrain.layers == 2
    assert compose(CONF) == compose(CONF, ["corpus=tang", "size=laptop"])
