"""litgpt as a contender: its pretrain command with the settings of its own recipe for a model of this kind.

`config_hub/pretrain/tinystories.yaml` of its repository trains a Llama of 15 M parameters on rows of 256 tokens: bf16-mixed
(also its default where nothing is said), AdamW with betas 0.9 and 0.95 and decay 0.1, clipping at 1, a cosine to 0, no
final validation; it always compiles. Shape, batch and length of the run are the race's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers.contender import BATCHES, Run, said
from benchmarks.peers.timing import marked
from components.errors import InkwellError

REQUIREMENTS = Path(__file__).with_name("litgpt.txt")


class LitGPT:
    """`litgpt pretrain` in an environment of its own."""

    name = "litgpt"
    modes: Sequence[str] = ("compiled",)  # its command offers no other
    rates: Sequence[float] = (5e-4, 1e-3, 3e-3)
    batches: Sequence[int] = BATCHES

    def __init__(self, environment: Path) -> None:
        self.environment = environment.absolute()
        self.step = marked(r"\| iter (\d+) step \d+ \|.*\(step\)")

    def install(self, folder: Path) -> None:
        """Create the environment from the pinned requirements, once; InkwellError with pip's last words when it cannot be."""
        stamp = self.environment / "requirements.txt"
        if stamp.exists() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
            return
        print(f"  installing {', '.join(_pins())} into {self.environment}", flush=True)
        shutil.rmtree(self.environment, ignore_errors=True)
        python = str(self.environment / "bin" / "python")
        for command in (
            [sys.executable, "-m", "venv", str(self.environment)],
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(REQUIREMENTS)],
            # without .pyc its imports would take three times as long
            ["env", "-u", "PYTHONDONTWRITEBYTECODE", python, "-m", "compileall", "-q", "-j0", str(self.environment / "lib")],
        ):  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode and "compileall" not in command:
                words = (done.stderr or done.stdout).strip().splitlines()
                raise InkwellError(f"litgpt cannot be installed: {words[-1] if words else 'pip said nothing'}")
        shutil.copyfile(REQUIREMENTS, stamp)

    def command(self, run: Run, mode: str) -> list[str]:
        """See `Peer`."""
        shape, name = run.shape, "inkwell-race"
        settings = {
            "model_name": name,
            "model_config": {
                "name": name,
                "hf_config": {},
                "block_size": run.block,
                "vocab_size": shape.vocabulary,
                "padded_vocab_size": shape.vocabulary,
                "n_layer": shape.layers,
                "n_head": shape.heads,
                "n_query_groups": shape.key_value_heads,
                "n_embd": shape.hidden_size,
                "head_size": shape.head_size,
                "rotary_percentage": 1.0,
                "parallel_residual": False,
                "bias": False,
                "norm_class_name": "RMSNorm",
                "norm_eps": 1e-6,
                "mlp_class_name": "LLaMAMLP",
                "intermediate_size": shape.feed_forward_size,
            },
            "out_dir": str(run.folder / "out"),
            "precision": "bf16-mixed",
            "data": {
                "class_path": "benchmarks.peers.litgpt_data.PackedTokens",
                "init_args": {"tokens": str(run.tokens), "seed": run.seed},
            },
            "train": {
                "save_interval": max(1, run.steps // run.saves),
                "log_interval": 1,
                "global_batch_size": run.batch,
                "micro_batch_size": run.batch,
                "lr_warmup_steps": max(1, run.steps // 20),
                "max_tokens": run.steps * run.batch * run.block,
                "max_seq_length": run.block,
                "tie_embeddings": shape.tied,
                "max_norm": 1.0,
                "min_lr": 0.0,
            },
            "eval": {"interval": 10**9, "final_validation": False},
            "optimizer": {
                "class_path": "torch.optim.AdamW",
                "init_args": {"lr": run.rate, "weight_decay": 0.1, "betas": [0.9, 0.95]},
            },
            "logger_name": "csv",
            "seed": run.seed,
        }
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        litgpt = self.environment / "bin" / "litgpt"
        return [str(litgpt), "pretrain", "--config", str(run.folder / "settings.yaml")]

    def weights(self, run: Run) -> list[tuple[int, dict[str, Any]]]:
        """See `Peer`."""
        convert = Path(__file__).with_name("litgpt_convert.py")
        said([str(self.environment / "bin" / "python"), str(convert), str(run.folder / "out")], run.folder)
        found = {}
        for path in (run.folder / "out").glob("*/model.pth"):
            name = path.parent.name
            step = run.steps if name == "final" else int(name.removeprefix("step-"))
            found[step] = {"weights": str(path), "shape": run.shape.llama(run.block)}
        return [(step, found[step]) for step in sorted(found)]


def _pins() -> list[str]:
    return [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
