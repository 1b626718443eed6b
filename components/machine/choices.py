"""How a run uses the machine, once it is decided; what decides is `components.machine.hardware`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.machine import precision as formats

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# what calibration tries: fields of Choices
CALIBRATED = ("precision", "threads", "fused", "attention", "micro_batch_parts")
_ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}


@dataclass(frozen=True)
class Choices:
    """What a run's speed depends on, and nothing of what it learns beyond rounding.

    threads: of each of `processes` processes; precision: fp32, bf16, fp16 (with loss scaling) or fp8; fused: what
    `components.training.computation.computation_for` takes; micro_batch_parts: into how many parts a micro-batch is cut;
    float32_onednn: float32 products go to oneDNN; muon_bf16: Muon iterates in bfloat16, whatever `precision` is, else in
    float32 (runs that began before there was this choice did the former); tokens_per_second: what eager steps of all processes reached in the
    calibration, 0 where there was none; measured: gains and whatever else was measured, by name; identity: of machine and model, for `components.machine.hardware.achieved`.
    """

    device: str
    threads: int
    precision: str = "fp32"
    compile: bool = False
    processes: int = 1
    fused: str = "auto"
    attention: str = "sdpa"
    micro_batch_parts: int = 1
    float32_onednn: bool = False
    muon_bf16: bool = True
    allocator: str = "off"
    tokens_per_second: float = 0.0
    measured: Mapping[str, float] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bf16(self) -> bool:
        """Whether autocast, where there is one, is to bfloat16."""
        return self.precision in ("bf16", "fp8")

    @property
    def dtype(self) -> torch.dtype:
        """What matrices are multiplied in; float8 has its own modules, and bfloat16 around them."""
        import torch

        return {"fp32": torch.float32, "fp16": torch.float16}.get(self.precision, torch.bfloat16)

    def apply(self) -> None:
        """Set what belongs to the process: threads, and the route of float32 products."""
        import torch

        torch.set_num_threads(self.threads)
        if self.device == "cpu":
            formats.route_float32(self.float32_onednn)

    def prepare(self, model: PreTrainedModel) -> None:
        """Set what belongs to the model, in place: its attention, and float8 layers where chosen."""
        from components.model.architectures import of

        wanted = _ATTENTION[self.attention]
        if not of(model.config).recurrent and model.config._attn_implementation != wanted:
            model.set_attn_implementation(wanted)
        if self.precision == "fp8":
            formats.to_float8(model)

    def metrics(self) -> dict[str, float]:
        """Flat numbers for metrics and MLflow."""
        return {
            "threads": self.threads,
            "processes": self.processes,
            "bf16": int(self.bf16),
            "compiled": int(self.compile),
            "micro_batch_parts": self.micro_batch_parts,
            "float32_onednn": int(self.float32_onednn),
            **({"calibrated_tokens_per_second": round(self.tokens_per_second, 1)} if self.tokens_per_second else {}),
            **{name: round(value, 4) for name, value in self.measured.items()},
        }

    def _float32(self) -> list[str]:
        """How float32 is multiplied on a processor and, where that was taken, what bf16 would do; with gains, where measured."""
        if self.device != "cpu":
            return []
        onednn, bf16 = (self.measured.get(f"gain_{name}") for name in ("float32_onednn", "bf16_products"))
        words = []
        if self.float32_onednn:
            words.append("float32 products by oneDNN" + (f" ({onednn:.2f} x PyTorch's BLAS)" if onednn else ""))
        elif onednn:
            words.append(f"float32 products by PyTorch's BLAS (oneDNN {onednn:.2f} x)")
        if self.precision == "fp32" and bf16:
            words.append(f"bf16 products {bf16:.2f} x as fast")
        return words

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        words = [self.precision, *self._float32(), "compiled" if self.compile else "eager", threads]
        words += [f"{self.processes} processes"] if self.processes > 1 else []
        words += [f"micro-batches in {self.micro_batch_parts} parts"] if self.micro_batch_parts > 1 else []
        words += [self.device] if self.device != "cpu" else []
        return ", ".join(words)
