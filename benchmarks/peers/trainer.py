"""The transformers Trainer as its documentation sets it up for a CPU: `python -m benchmarks.peers.trainer SETTINGS.json`.

`bf16=True, use_cpu=True` is what its page on training with CPUs recommends, `torch_compile=True` its option for speed;
texts are grouped into rows as its run_clm example does. It says `@ <step>` on a line of its own after every optimizer
step: the race reads the clock there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """One run. `shape` are arguments of LlamaConfig; `saves` weights are kept on the way, spread evenly, the last at the end."""

    tokens: str
    out: str
    shape: dict[str, Any]
    rate: float
    steps: int
    batch: int = 32
    block: int = 256
    compile: bool = True
    warmup: float = 0.05
    weight_decay: float = 0.1
    saves: int = 1
    seed: int = 1

    def write(self, path: Path) -> None:
        """As JSON, for the command line."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def train(settings: Settings) -> None:
    """Train from nothing; weights are in `out`/checkpoint-<step>."""
    import torch
    from torch.utils.data import Dataset
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
        set_seed,
    )

    from benchmarks.peers.rows import rows

    grouped = torch.from_numpy(rows(Path(settings.tokens), "train", settings.block, settings.seed))

    class Rows(Dataset):  # type: ignore[type-arg]
        """Rows with themselves as labels: the model shifts them."""

        def __len__(self) -> int:
            return len(grouped)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": grouped[index], "labels": grouped[index]}

    class Tell(TrainerCallback):
        """Say each step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            print(f"@ {state.global_step}", flush=True)

    set_seed(settings.seed)
    model = LlamaForCausalLM(LlamaConfig(**settings.shape))
    arguments = TrainingArguments(
        output_dir=settings.out,
        use_cpu=True,
        bf16=True,
        torch_compile=settings.compile,
        per_device_train_batch_size=settings.batch,
        max_steps=settings.steps,
        learning_rate=settings.rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,  # below 1 it is a share of the steps (transformers 5.23, TrainingArguments.get_warmup_steps)
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        logging_steps=50,
        disable_tqdm=True,
        report_to="none",
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=max(1, settings.steps // settings.saves),
        save_only_model=True,
        seed=settings.seed,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Rows(), data_collator=default_data_collator, callbacks=[Tell()]
    )
    trainer.train()


if __name__ == "__main__":
    train(Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
