"""What is decided before the first step belongs to the model that is trained, whoever chose it: a person, the dial, other weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.configuration import Machine, Pretrain
from components.configuration import Tokenizer as TokenizerParameters
from components.configuration.training import Parallel
from components.corpus.packed import TokenShards
from components.launch.processes import here
from components.model.folders import load_model, load_tokenizer
from components.pretrain.beginning import Beginning, begin
from components.tokenizer.adopted import write_adopted
from components.training.distributed import World
from tests.byte_level import TEXTS

QUICK = Machine(threads=1, precision="fp32", compile="off")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))


def begun(parameters: Pretrain, tokens: Path, tokenizer: Path, work: Path) -> Beginning:
    work.mkdir()
    train = TokenShards(tokens, "train")
    return begin(parameters, QUICK, train, load_tokenizer(tokenizer), work, 1, World(here(), Parallel()))


def test_what_is_measured_is_kept_for_the_shape_that_the_dial_chose(
    token_folder: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Or a run of another length would be told the speed of another model."""
    sizes = [
        begun(
            Pretrain(dial={"parameters": size}, block=32, context=64),
            token_folder,
            tokenizer_folder,
            tmp_path / str(size),
        )
        for size in (180_000, 1_000_000)
    ]
    assert sizes[0].plan.parameters < sizes[1].plan.parameters
    assert all(one.parameters.hidden_size == one.model.config.hidden_size for one in sizes)
    written = Pretrain(hidden_size=64, layers=2, heads=1, key_value_heads=1, feed_forward_size=64, block=32, context=64)
    identities = [one.choices.identity.get("trial") for one in sizes]
    plain = begun(written, token_folder, tokenizer_folder, tmp_path / "plain").choices.identity.get("trial")
    assert len({str(one) for one in [*identities, plain]}) == 3


@pytest.mark.parametrize("dial", [{}, {"minutes": 0.5}])
def test_continued_weights_are_planned_as_they_are(
    dial: dict[str, float], token_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    written = Pretrain(
        initial=str(tiny_model), dial=dial, layers=8, block=32, context=64, micro_batch=1, learning_rate=1e-4
    )
    write_adopted(TEXTS, written, TokenizerParameters(), 1, tmp_path / "tokenizer")
    found = begun(written, token_folder, tmp_path / "tokenizer", tmp_path / "work")
    theirs = load_model(tiny_model)
    assert (found.parameters.layers, found.parameters.hidden_size) == (2, 256)
    assert "2 layers 256" in found.plan.shape
    assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in found.model.state_dict().items())
    assert found.parameters.learning_rate == 1e-4
    if dial:
        assert found.parameters.steps != written.steps
        assert found.plan.seconds is not None
        assert found.plan.seconds <= 30


def test_a_block_as_long_as_the_continued_model_allows_is_taken(
    token_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """`pretrain.context` is not theirs, and not asked."""
    written = Pretrain(initial=str(tiny_model), block=256, context=64, micro_batch=1, steps=2)
    write_adopted(TEXTS, written, TokenizerParameters(), 1, tmp_path / "tokenizer")
    found = begun(written, token_folder, tmp_path / "tokenizer", tmp_path / "work")
    assert found.parameters.block == 256
