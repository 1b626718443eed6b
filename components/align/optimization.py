"""Direct preference optimization by trl, on token sequences that are exactly those of supervised fine-tuning.

Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), with the likelihood of the chosen answer added
(Pang et al., "Iterative Reasoning Preference Optimization", arXiv 2404.19733): without it DPO lowers the likelihood
of both answers, and the aligned model would need more bits a character than the one it came from.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.align.pairs import UNFINISHED
from components.chat.encoding import encode_conversations
from components.chat.markup import Message
from components.corpus.conversations import Preference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Align

EncodedPair = dict[str, list[int]]  # prompt_ids, chosen_ids, rejected_ids

_MEASURING_BATCH = 32
_WARMUP = 0.1  # share of the steps


@dataclass(frozen=True)
class Outcome:
    """trl's log by optimizer step; log-likelihoods (chosen, rejected; nats) of held-out pairs before and after."""

    curve: list[dict[str, float]]
    before: list[tuple[float, float]]
    after: list[tuple[float, float]]
    resumed_at: int

    def held_out_margins(self, beta: float) -> list[float]:
        """DPO's reward of the chosen answer less that of the rejected one, for each held-out pair."""
        return [
            beta * ((chosen - first_chosen) - (rejected - first_rejected))
            for (first_chosen, first_rejected), (chosen, rejected) in zip(self.before, self.after, strict=True)
        ]


def encode_pairs(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Preference]) -> list[EncodedPair]:
    """Token ids of prompt, chosen and rejected answer of each pair.

    The prompt begins with `<s>`; an answer ends with `<|im_end|>`, except a sample that never ended: to reject an end
    that it did not write would teach not to end.
    """

    def side(answers: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        conversations: list[list[Message]] = [
            [*pair.prompt, {"role": "assistant", "content": answer}]
            for pair, answer in zip(pairs, answers, strict=True)
        ]
        return [_last_answer(ids, mask) for ids, mask in encode_conversations(tokenizer, conversations)]

    chosen = side([pair.chosen for pair in pairs])
    rejected = side([pair.rejected for pair in pairs])
    return [
        {
            "prompt_ids": prompt,
            "chosen_ids": good,
            "rejected_ids": bad[:-1] if pair.made == UNFINISHED else bad,
        }
        for pair, (prompt, good), (_, bad) in zip(pairs, chosen, rejected, strict=True)
    ]


def _last_answer(ids: list[int], mask: list[bool]) -> tuple[list[int], list[int]]:
    stop = len(mask) - mask[::-1].index(True)
    start = stop
    while start and mask[start - 1]:
        start -= 1
    return ids[:start], ids[start:stop]


def longest(pair: EncodedPair) -> int:
    """Tokens of the longer sequence of a pair."""
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def in_batches(pairs: Sequence[EncodedPair], size: int, seed: int) -> list[EncodedPair]:
    """The pairs in the order of training: each run of `size` holds pairs of like length, the runs are shuffled.

    Drawn at random, most of a batch would be padding: the longest of 32 sequences is far longer than the average.
    """
    rng = random.Random(f"{seed}:batches")
    by_length = sorted(pairs, key=longest)
    batches = [by_length[start : start + size] for start in range(0, len(pairs), size)]
    # The one that may be smaller stays last, or it would shift the others' borders.
    *whole, rest = batches
    rng.shuffle(whole)
    return [pair for batch in [*whole, rest] for pair in batch]


def optimize(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[EncodedPair],
    validation: Sequence[EncodedPair],
    settings: Align,
    seed: int,
    folder: Path,
    bf16: bool,
) -> Outcome:
    """Train `model` in place on the CPU; checkpoints under `folder`, from the last of which a killed run goes on.

    The reference is `model` as it comes in: its log-likelihoods are computed once, before training. `validation`
    pairs are measured before and after.
    """
    import datasets
    from transformers import PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from components.progress import Bar

    datasets.disable_progress_bars()
    os.environ["TQDM_DISABLE"] = "1"  # trl's own bars; what takes long is shown below
    # trl passes arguments of transformers that transformers has renamed: not for a user to mend.
    warnings.filterwarnings("ignore", category=FutureWarning)

    class PairTrainer(DPOTrainer):  # type: ignore[misc]
        """trl's trainer, reading token ids as they are: its own template would leave out `<s>`."""

        def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any, **__: Any) -> datasets.Dataset:
            return dataset

    class Progress(TrainerCallback):  # type: ignore[misc]
        """trl's curve as one line with the time left."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = Bar("preference optimization", state.max_steps)
            self.bar.resume_at(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if "rewards/margins" in logs:
                self.bar.advance(1, f"margin {logs['rewards/margins']:.2f}, right {logs['rewards/accuracies']:.0%}")

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    micro_batch = min(settings.micro_batch, settings.batch, len(pairs))
    accumulation = max(1, min(settings.batch, len(pairs)) // micro_batch)
    steps = max(1, math.ceil(settings.epochs * len(pairs) / (micro_batch * accumulation)))
    checkpoints = folder / "checkpoints"
    arguments = DPOConfig(
        output_dir=str(checkpoints),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(_WARMUP * steps),
        weight_decay=0.0,
        optim="adamw_torch",
        loss_type=["sigmoid", "sft"] if settings.sft_weight else ["sigmoid"],
        loss_weights=[1.0, settings.sft_weight] if settings.sft_weight else [1.0],
        beta=settings.beta,
        max_length=None,
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=micro_batch,
        train_sampling_strategy="sequential",  # `in_batches` has shuffled
        use_cpu=True,
        bf16=bf16,
        gradient_checkpointing=False,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        logging_steps=1,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    print(
        f"  {len(pairs)} pairs, {steps} steps, {'bf16' if bf16 else 'fp32'}; the reference's likelihoods first",
        flush=True,
    )
    trainer = PairTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(in_batches(pairs, micro_batch, seed)),
        processing_class=tokenizer,
        callbacks=[Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    before = _log_likelihoods(trainer, validation)
    resume = last_checkpoint(checkpoints)
    resumed_at = int(resume.name.split("-")[-1]) if resume else 0
    if resume:
        print(f"  going on from step {resumed_at}", flush=True)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    after = _log_likelihoods(trainer, validation)
    curve = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    return Outcome(curve, before, after, resumed_at)


def _log_likelihoods(trainer: Any, pairs: Sequence[EncodedPair]) -> list[tuple[float, float]]:
    """Log-likelihood (nats) of the chosen and of the rejected answer of each pair under the trainer's model."""
    trainer.model.eval()
    results: list[tuple[float, float]] = []
    for start in range(0, len(pairs), _MEASURING_BATCH):
        batch = trainer.data_collator(list(pairs[start : start + _MEASURING_BATCH]))
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
        results += zip(chosen.tolist(), rejected.tolist(), strict=True)
    return results


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; one that a kill left half written is removed.

    transformers writes `trainer_state.json` last.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
    return None
