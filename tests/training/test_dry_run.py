"""The dry run against what really happens: memory, operations, bytes sent; and what it advises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.configuration import Configuration, parse
from components.errors import InkwellError
from components.model.architectures import count
from components.training.dry_run import Cluster, Estimate, advice, describe, estimate, main, parse_bytes, with_dial
from tests.processes import ROOT

SHAPE = {
    "hidden_size": 128,
    "layers": 3,
    "heads": 4,
    "key_value_heads": 4,
    "feed_forward_size": 384,
    "block": 128,
    "context": 128,
    "micro_batch": 8,
    "accumulation": 2,
    "steps": 10,
}
VOCABULARY = 2048


def configured(
    parallel: dict[str, Any] | None = None, machine: dict[str, Any] | None = None, **pretrain: Any
) -> Configuration:
    """The small shape, changed."""
    return parse(
        {
            "ingest": {"sources": [{"name": "tiny", "kind": "path", "location": "poems.json"}]},
            "machine": {"precision": "fp32", "fused": "off", **(machine or {}), "parallel": parallel or {}},
            "pretrain": {**SHAPE, **pretrain},
        }
    )


def planned(size: int = 1, parallel: dict[str, Any] | None = None, **pretrain: Any) -> Estimate:
    """The plan for `size` processes of one machine."""
    return estimate(configured(parallel, **pretrain), Cluster(size), VOCABULARY)


MEASURED = """
import json, re, sys
from pathlib import Path
from types import SimpleNamespace
import torch
sys.path.insert(0, {root!r})
from tests.training.test_dry_run import VOCABULARY, configured
from components.model import architectures
from components.launch.processes import Place
from components.training.computation import computation_for
from components.training.distributed import World
from components.training.recipe import optimizers_for

torch.set_num_threads(1)
configuration = configured(machine={machine!r}, **{pretrain!r})
parameters = configuration.pretrain

def resident(what):
    return 1024 * int(re.search(what + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

def rehearse(parameters):
    model = architectures.build(parameters, VOCABULARY).train()
    if parameters.activation_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={{"use_reentrant": False}})
    dtype = torch.float32 if configuration.machine.precision == "fp32" else torch.bfloat16
    computation = computation_for(model, dtype=dtype, compile=False, fused=configuration.machine.fused)
    optimizers = optimizers_for(parameters, False, model)
    world = World(Place(), configuration.machine.parallel)
    module = SimpleNamespace(
        computation=computation, manual_backward=torch.Tensor.backward, scaler=SimpleNamespace(scale=lambda loss: loss)
    )
    for _ in range(3):
        rows = [torch.randint(4, VOCABULARY, (parameters.micro_batch, parameters.block)) for _ in range(2)]
        numbers = torch.zeros_like(rows[0])
        world.backward(module, [(*rows, numbers)] * parameters.accumulation, 1e-3)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        computation.weights_changed()

# what PyTorch itself sets up when it is first used is none of the training's
rehearse(parameters.model_copy(update={{"micro_batch": 1, "layers": 1, "block": 16, "context": 16, "accumulation": 1}}))
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
rehearse(parameters)
print(json.dumps(resident("VmHWM") - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("machine", "pretrain"),
    [
        ({}, {}),
        ({"precision": "bf16"}, {"optimizer": "adamw"}),
        ({"fused": "on", "precision": "bf16"}, {}),
        ({}, {"activation_checkpointing": True, "layers": 8, "block": 256, "context": 256}),
        ({}, {"architecture": "gpt2", "tie_embeddings": True}),
        ({}, {"architecture": "mixtral", "experts": 4}),
        ({}, {"architecture": "mamba2", "layers": 6, "block": 256, "context": 256}),
    ],
    ids=["stock", "bf16 and adamw", "fused", "activations computed again", "gpt2", "mixtral", "mamba2"],
)
def test_memory_is_what_a_process_really_takes(machine: dict[str, Any], pretrain: dict[str, Any]) -> None:
    """Within 15 %, and 24 MiB that the allocator and PyTorch's libraries come to on their own."""
    found = estimate(configured(machine=machine, **pretrain), Cluster(), VOCABULARY)
    script = MEASURED.format(root=str(ROOT), machine=machine, pretrain=pretrain)
    # blocks above 64 KiB are given back to the system when they are freed, so that residence is what is held
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert found.peak == pytest.approx(measured, rel=0.15, abs=24 * 2**20)
    assert found.peak > 60 * 2**20, "large enough that the tolerance means something"


def test_operations_are_those_of_the_matrices() -> None:
    """6 N D of the multiplied weights, and attention; the optimizer's are small with AdamW."""
    found = planned(optimizer="adamw")
    width, layers, inner, block = 128, 3, 384, 128
    multiplied = layers * (4 * width**2 + 3 * width * inner) + width * VOCABULARY
    tokens = 8 * 2 * block
    attention = 12 * layers * width * block * tokens  # scores and sums, forward and twice backward
    assert found.tokens == tokens
    # flash attention computes its scores a second time in the backward pass
    assert found.operations == pytest.approx(6 * multiplied * tokens + attention * 7 / 6, rel=0.02)


def test_what_is_sent_follows_from_the_strategy() -> None:
    weights = 4 * planned().parameters
    passing = 3 / 4
    ddp = planned(4, {"strategy": "ddp"})
    assert ddp.sent_inside == pytest.approx(2 * passing * weights, rel=1e-3), "gradients are summed once a step"
    assert ddp.sent_outside == 0
    # a pass gathers the weights of blocks for both directions and those outside them once, and scatters the gradients
    fsdp = planned(4, {"strategy": "fsdp2"}, optimizer="adamw")
    assert 2 * passing * weights < fsdp.sent_inside < 3 * passing * weights * 1.05
    shared = planned(4, {"shard_optimizer": True})
    assert shared.sent_inside > ddp.sent_inside + 0.9 * weights, "moved weights go to all"
    assert planned().sent_inside == 0


def test_what_is_shared_out_takes_less() -> None:
    ddp, shared, fsdp = (planned(4, p) for p in ({}, {"shard_optimizer": True}, {"strategy": "fsdp2"}))
    assert shared.at_peak["optimizer state"] < 0.5 * ddp.at_peak["optimizer state"]
    assert fsdp.at_peak["optimizer state"] < 0.3 * ddp.at_peak["optimizer state"]
    assert fsdp.at_peak["weights"] == pytest.approx(ddp.at_peak["weights"] / 4, rel=0.01)
    assert ddp.parameters == fsdp.parameters
    for one in (ddp, shared, fsdp):
        assert sum(one.at_peak.values()) == one.peak


def test_ema_and_logits_are_told_apart() -> None:
    found = planned(ema_decay=0.99)
    assert found.at_peak["average of the weights"] == 4 * found.parameters
    logits = 8 * 128 * VOCABULARY * 4
    assert logits <= found.at_peak["logits"] <= 5 * logits


def test_logits_of_a_large_batch_are_never_there_at_once() -> None:
    found = planned(architecture="gpt2", tie_embeddings=True, micro_batch=128, accumulation=1)
    assert found.at_peak.get("logits", 0) < 128 * 128 * VOCABULARY * 4


@pytest.mark.parametrize(
    ("parallel", "pretrain"),
    [
        ({"strategy": "fsdp2", "tensor": 2}, {}),
        ({"strategy": "fsdp2", "tensor": 2, "sequence": True}, {}),
        ({"pipeline": 2}, {"accumulation": 16}),
    ],
)
def test_other_ways_to_divide_a_model(parallel: dict[str, Any], pretrain: dict[str, Any]) -> None:
    whole, divided = planned(**pretrain), planned(4, parallel, **pretrain)
    assert divided.at_peak["weights"] < 0.7 * whole.at_peak["weights"]
    assert divided.sent_inside > 0
    assert divided.tokens == whole.tokens
    assert divided.operations < 0.4 * whole.operations


def test_machines_are_told_apart_and_time_follows_from_rates() -> None:
    configuration = configured({"strategy": "fsdp2"})
    cluster = Cluster(2, 2, rate=1e12, bandwidth=1e9, inside=1e10, utilisation=0.5)
    found = estimate(configuration, cluster, VOCABULARY)
    assert found.sent_inside == 0, "every exchange crosses the machines"
    assert found.computing == pytest.approx(found.operations / 5e11)
    assert found.exchanging == pytest.approx(found.sent_outside / 1e9)
    assert found.shortest == max(found.computing, found.exchanging)
    assert found.longest == found.computing + found.exchanging
    split = estimate(configured({"strategy": "fsdp2", "tensor": 2}), cluster, VOCABULARY)
    assert split.sent_inside > 0, "the parts of a matrix stay within a machine"
    assert split.exchanging == pytest.approx(split.sent_outside / 1e9 + split.sent_inside / 1e10)


def test_attention_is_planned_as_it_is_asked_for() -> None:
    written_out = estimate(configured(machine={"attention": "eager"}), Cluster(), VOCABULARY)
    scores = 3 * 8 * 4 * 128 * 128 * 4  # layers, rows, heads, tokens twice, bytes
    assert written_out.peak - planned().peak > 0.5 * scores, "SDPA keeps a mask of each layer instead"
    with pytest.raises(InkwellError, match=r"machine\.fused = 'on': machine\.attention = 'eager'"):
        estimate(configured(machine={"attention": "eager", "fused": "on"}), Cluster(), VOCABULARY)


def saved_opt(folder: Path, **changed: Any) -> Any:
    """Configuration, without weights, of a model of a family that is trained with a sequence a row."""
    from transformers import OPTConfig

    shape = {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "vocab_size": 512, "max_position_embeddings": 128}
    config = OPTConfig(**shape, **changed)
    config.save_pretrained(folder)
    return config


def test_a_model_to_continue_from_is_planned_by_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import OPTForCausalLM

    monkeypatch.setenv("HOME", str(tmp_path))
    config = saved_opt(tmp_path / "opt", dtype="bfloat16")
    found = planned(initial="~/opt", optimizer="adamw")
    assert found.parameters == sum(weight.numel() for weight in OPTForCausalLM(config).parameters())
    assert found.at_peak["weights"] == 4 * found.parameters, "float32, as it is trained"
    width, layers, inner, block = 64, 2, 128, 128
    multiplied = layers * (4 * width**2 + 2 * width * inner) + width * 512
    attention = 14 * layers * width * block
    assert found.operations == pytest.approx((6 * multiplied + attention) * found.tokens, rel=0.05)


def test_a_model_that_looks_at_its_numbers_is_refused(tmp_path: Path) -> None:
    """Layers that are left out by a throw of the dice: no shape tells how many."""
    saved_opt(tmp_path / "opt", layerdrop=0.5)
    with pytest.raises(InkwellError, match="what a forward pass of OPTForCausalLM does depends on its numbers"):
        planned(initial=str(tmp_path / "opt"))


def test_advice_is_tried_out() -> None:
    configuration, found = configured(), planned()
    roomy = Cluster(memory=found.peak * 2)
    assert found.fits(roomy)
    tight = Cluster(memory=found.peak * 0.7)
    assert not found.fits(tight)
    told = advice(configuration, tight, VOCABULARY)
    assert "pretrain.micro_batch = 4 with pretrain.accumulation = 4" in told
    assert planned(micro_batch=4, accumulation=4).fits(tight)
    assert "take more devices" in advice(configuration, Cluster(memory=2**20), VOCABULARY)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "ingest: {sources: [{name: tiny, kind: path, location: poems.json}]}\n"
        f"tokenizer: {{vocabulary: {VOCABULARY}}}\nmachine: {{precision: fp32, fused: 'off'}}\n"
        f"pretrain: {json.dumps(SHAPE)}\n",
        encoding="utf-8",
    )
    files = ["--params", str(params), "--tokenizer", str(tmp_path / "none")]
    rates = ["--device-memory", "24GiB", "--device-flops", "150e12", "--bandwidth", "50e9"]
    assert main([*files, *rates, "--processes", "8", "--nodes", "4", "--set", "machine.parallel.strategy=fsdp2"]) == 0
    told = capsys.readouterr().out
    for words in ("4 x 8 processes, fsdp2, 32 replicas", "of 24.0 GiB", "tokens/s", "optimizer state"):
        assert words in told, told
    assert main([*files, "--device-memory", "60MiB"]) == 2
    assert "It does not fit" in capsys.readouterr().err
    assert main([*files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["peak"] == planned().peak
    assert main([*files, "--set", "machine.parallel.tensor=2"]) == 2
    assert "fsdp2" in capsys.readouterr().err


def test_a_dial_in_parameters_is_turned(tmp_path: Path, token_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dialled = configured(dial={"parameters": 300_000, "keep": ["block"]})
    found = with_dial(dialled, token_folder, 512).pretrain
    assert count(found, 512).total == pytest.approx(300_000, rel=0.3)
    assert count(dialled.pretrain, 512).total > 500_000, "the shape that stands there is another"
    params = tmp_path / "params.yaml"
    params.write_text("ingest: {sources: [{name: tiny, kind: path, location: poems.json}]}\n", encoding="utf-8")
    files = ["--params", str(params), "--tokenizer", str(tmp_path), "--tokens", str(tmp_path / "none")]
    for change, told in (("parameters=300000", "needs the corpus"), ("minutes=5", "pretrain.dial.minutes")):
        assert main([*files, "--set", f"pretrain.dial.{change}"]) == 2
        assert told in capsys.readouterr().err
    continued = ["--set", "pretrain.initial=models/other", "--set", "pretrain.dial.parameters=300000"]
    assert main([*files, *continued]) == 2
    assert "the weights of pretrain.initial have their size" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--processes", "--nodes"])
@pytest.mark.parametrize("value", ["0", "-2", "two"])
def test_there_is_at_least_one_process(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"{option}={value}"])
    assert "is no number of 1 or more" in capsys.readouterr().err


def test_words_for_a_run_without_a_cluster() -> None:
    told = describe(configured(), Cluster(), VOCABULARY, planned())
    assert "one process" in told
    assert "give --device-flops" in told


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * 2**30), ("80 GB", 80e9), ("5e10", 5e10), ("512mib", 2**29)])
def test_sizes(text: str, size: float) -> None:
    assert parse_bytes(text) == size


def test_help_is_quick_and_light() -> None:
    code = "import sys; sys.argv[1:] = ['--help']\nfrom components.training.dry_run import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert not {'torch', 'pydantic'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
