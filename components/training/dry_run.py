"""`python -m components.training.dry_run`: will this training fit into a cluster, and how long will it take there?

Nothing is trained and nothing of the cluster is needed: a step of one of its processes is rehearsed without numbers
(`components.training.rehearsal`).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from components.step import quiet_environment

if TYPE_CHECKING:
    from components.configuration import Configuration
    from components.training.rehearsal import Rehearsal

RESERVE = 0.1  # of a device's memory: what the allocator loses by fragmentation, and what the driver and NCCL take
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Cluster:
    """Machines that are alike. memory: bytes a device; rate: operations a second a device; bandwidth, inside: bytes a
    second that a device sends to other machines, and within its own; utilisation: share of `rate` that is reached.
    """

    processes: int = 1
    nodes: int = 1
    memory: float | None = None
    rate: float | None = None
    bandwidth: float | None = None
    inside: float | None = None
    utilisation: float = 0.4

    @property
    def size(self) -> int:
        """Processes of all machines; each has a device."""
        return self.processes * self.nodes


@dataclass(frozen=True)
class Estimate:
    """Of one device and one optimizer step: bytes, operations, seconds. None where the cluster was not described.

    The step takes between `shortest` (exchange wholly behind computing) and `longest` (one after the other) seconds.
    """

    parameters: int
    tokens: int
    peak: int
    at_peak: dict[str, int]
    operations: float
    sent_inside: int
    sent_outside: int
    computing: float | None
    exchanging: float | None
    shortest: float | None
    longest: float | None

    def fits(self, cluster: Cluster) -> bool:
        """Whether a device has room, with a reserve."""
        return cluster.memory is None or self.peak <= cluster.memory * (1 - RESERVE)


def estimate(configuration: Configuration, cluster: Cluster, vocabulary: int) -> Estimate:
    """The plan of `pretrain` for that cluster; of several stages, the one that needs most memory.

    Raises InkwellError where the parameters contradict each other.
    """
    from components.launch.processes import Place
    from components.machine.devices import fused_modules
    from components.training.rehearsal import rehearse

    parameters, machine = configuration.pretrain, configuration.machine
    stages = machine.parallel.pipeline
    found = []
    fused = "off" if machine.precision == "fp16" else fused_modules(machine)  # the former as `computation_for` has it
    for rank in sorted({0, stages - 1}):  # the first has most passes under way, the last has the logits
        place = Place(rank, cluster.size, rank % cluster.processes, cluster.processes, launcher="dry run")
        found.append(rehearse(parameters, machine, vocabulary, place, bf16=machine.precision != "fp32", fused=fused))
    largest = max(found, key=lambda one: one.peak)
    slowest = max(found, key=lambda one: one.work.operations)
    return _timed(largest, slowest, stages, cluster)


def _timed(largest: Rehearsal, slowest: Rehearsal, stages: int, cluster: Cluster) -> Estimate:
    batch, work = slowest.batch, slowest.work
    inside = sum(b for group, b in work.sent.items() if len({rank // cluster.processes for rank in group}) == 1)
    outside = sum(work.sent.values()) - inside
    computing = exchanging = shortest = longest = None
    if cluster.rate:
        # while a pipeline fills and empties, stages wait
        waiting = (batch.passes + stages - 1) / batch.passes
        computing = work.operations / (cluster.rate * cluster.utilisation) * waiting
        bandwidths = ((inside, cluster.inside or cluster.bandwidth), (outside, cluster.bandwidth))
        if all(speed for sent, speed in bandwidths if sent):
            exchanging = sum(sent / speed for sent, speed in bandwidths if sent and speed)
            shortest, longest = max(computing, exchanging), computing + exchanging
    return Estimate(
        parameters=slowest.parameters,
        tokens=slowest.replicas * batch.passes * batch.rows * batch.block,
        peak=largest.peak,
        at_peak=largest.at_peak,
        operations=work.operations,
        sent_inside=int(inside),
        sent_outside=int(outside),
        computing=computing,
        exchanging=exchanging,
        shortest=shortest,
        longest=longest,
    )


def alternatives(configuration: Configuration, cluster: Cluster) -> Iterator[tuple[str, Configuration]]:
    """Changes that need less memory, the least painful first; the batch of a step stays the same."""
    parameters, machine = configuration.pretrain, configuration.machine
    changes: list[str] = []

    def changed(text: str, pretrain: dict[str, Any], parallel: dict[str, Any]) -> tuple[str, Configuration]:
        nonlocal parameters, machine
        changes.append(text)
        parameters = parameters.model_copy(update=pretrain)
        machine = machine.model_copy(update={"parallel": machine.parallel.model_copy(update=parallel)})
        return ", ".join(changes), configuration.model_copy(update={"pretrain": parameters, "machine": machine})

    parallel = machine.parallel
    if cluster.size > 1 and parallel.strategy == "ddp" and parallel.pipeline == 1 and not parallel.shard_optimizer:
        yield changed("machine.parallel.shard_optimizer = true", {}, {"shard_optimizer": True})
    while parameters.micro_batch > 1 and parameters.micro_batch % 2 == 0:
        halved = {"micro_batch": parameters.micro_batch // 2, "accumulation": parameters.accumulation * 2}
        changes = [text for text in changes if not text.startswith("pretrain.micro_batch")]
        yield changed(
            f"pretrain.micro_batch = {halved['micro_batch']} with pretrain.accumulation = {halved['accumulation']}",
            halved,
            {},
        )
    if not parameters.activation_checkpointing:
        yield changed("pretrain.activation_checkpointing = true", {"activation_checkpointing": True}, {})
    if cluster.size > 1 and parallel.strategy == "ddp" and parallel.pipeline == 1:
        changes = [text for text in changes if "shard_optimizer" not in text]
        yield changed("machine.parallel.strategy = 'fsdp2'", {}, {"strategy": "fsdp2", "shard_optimizer": False})


def advice(configuration: Configuration, cluster: Cluster, vocabulary: int) -> str:
    """What to change so that it fits, tried out; or that nothing of this kind helps."""
    for text, other in alternatives(configuration, cluster):
        try:
            found = estimate(other, cluster, vocabulary)
        except InkwellError:
            continue  # not for this model
        if found.fits(cluster):
            return f"it fits with {text}: {_bytes(found.peak)} a device."
    return "no smaller batch and no other strategy makes it fit: take more devices with fsdp2, or a smaller model."


def describe(configuration: Configuration, cluster: Cluster, vocabulary: int, found: Estimate) -> str:
    """The estimate in words."""
    parameters, parallel = configuration.pretrain, configuration.machine.parallel
    shape = "" if parameters.initial else f"{parameters.layers} layers, {parameters.hidden_size} wide, "
    lines = [
        f"model: {parameters.initial or parameters.architecture}, {shape}{found.parameters / 1e6:,.1f} M parameters, "
        f"vocabulary {vocabulary:,}",
        f"cluster: {cluster.nodes} x {cluster.processes} processes, {_strategy(configuration, cluster)}",
        f"step: {found.tokens:,} tokens (the last rows may be padding), {parameters.steps:,} steps",
        "memory of a device at the fullest moment of a step:",
    ]
    named = sorted(((size, kind) for kind, size in found.at_peak.items() if size), reverse=True)
    names = {"other": "activations and passing tensors"}
    lines += [f"  {_bytes(size):>10}  {names.get(kind, kind)}" for size, kind in named]
    room = ""
    if cluster.memory:
        share = found.peak / cluster.memory
        room = f" of {_bytes(cluster.memory)} ({share:.0%}; {RESERVE:.0%} are left for allocator, driver and exchange)"
    lines.append(f"  {_bytes(found.peak):>10}  in all{room}")
    if cluster.size > 1:
        lines.append(
            f"exchange: a device sends {_bytes(found.sent_inside)} a step within its machine, "
            f"{_bytes(found.sent_outside)} to others"
        )
    lines.append(f"work: {found.operations:.3g} operations a step and device")
    if found.computing is not None and cluster.rate is not None:
        speed = (
            f"  {found.computing:.3g} s of computing at {cluster.utilisation:.0%} of {cluster.rate:.3g} operations/s"
        )
        if found.shortest is not None and found.longest is not None:
            speed += (
                f", {found.exchanging:.3g} s of exchange\n  a step in {found.shortest:.3g} to {found.longest:.3g} s: "
            )
            speed += (
                f"{found.tokens / found.longest:,.0f} to {found.tokens / found.shortest:,.0f} tokens/s, all steps in "
            )
            speed += f"{_duration(found.shortest * parameters.steps)} to {_duration(found.longest * parameters.steps)}"
        else:
            speed += "; for the whole step give --bandwidth"
        lines.append(speed)
    else:
        lines.append("  how long that takes: give --device-flops and --bandwidth")
    if parallel.pipeline > 1:
        lines.append(
            f"pipeline: stages wait {_idle(configuration, cluster):.0%} of the time; more accumulation makes it less"
        )
    return "\n".join(lines)


def _strategy(configuration: Configuration, cluster: Cluster) -> str:
    parallel = configuration.machine.parallel
    if cluster.size == 1:
        return "one process"
    parts: list[str] = [parallel.strategy]
    if parallel.shard_optimizer:
        parts.append("optimizer state shared out")
    if parallel.tensor > 1:
        parts.append(f"matrices over {parallel.tensor}{' and the sequence' if parallel.sequence else ''}")
    if parallel.pipeline > 1:
        parts.append(f"{parallel.pipeline} stages")
    return ", ".join(parts) + f", {cluster.size // (parallel.tensor * parallel.pipeline)} replicas"


def _idle(configuration: Configuration, cluster: Cluster) -> float:
    from components.training.rehearsal import batch_of

    parallel = configuration.machine.parallel
    passes = batch_of(configuration.pretrain, cluster.size // parallel.pipeline).passes
    return (parallel.pipeline - 1) / (passes + parallel.pipeline - 1)


def _bytes(size: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size:.0f} B"


def _duration(seconds: float) -> str:
    for unit, scale in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:,.1f} {unit}"
    return f"{seconds:.3g} seconds"


def parse_bytes(text: str) -> float:
    """ "24GiB", "80 GB", "5e10": bytes."""
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 24GiB, 80GB or a number of bytes")
    return float(found[1]) * _UNITS[found[2].upper()]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above zero")
    return value


def _share(text: str) -> float:
    value = _positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m components.training.dry_run",
        description="Plan `pretrain` for a cluster that need not be there: memory of a device by kind, what it computes "
        "and sends, how long a step takes, and what to change where it does not fit. Strategy and batch are those of "
        "params.yaml (machine.parallel, pretrain).",
        epilog="Exit status: 0 it fits, 2 it does not, or something is to mend (told in one sentence).",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one parameter; may be given again",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=Path("models/tokenizer"),
        help="whose vocabulary counts, where it exists; else tokenizer.vocabulary (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        default=Path("data/tokens"),
        help="the packed corpus, which is looked at where pretrain.dial.parameters is set (default: %(default)s)",
    )
    parser.add_argument("--processes", type=_count, help="devices of a machine (default: machine.parallel.processes)")
    parser.add_argument("--nodes", type=_count, help="machines (default: machine.parallel.nodes)")
    parser.add_argument("--device-memory", type=parse_bytes, metavar="24GiB", help="memory of a device")
    parser.add_argument("--device-flops", type=_positive, metavar="150e12", help="operations a second of a device")
    parser.add_argument(
        "--bandwidth", type=parse_bytes, metavar="50e9", help="bytes a second that a device sends to other machines"
    )
    parser.add_argument(
        "--bandwidth-inside", type=parse_bytes, metavar="300e9", help="the same within a machine (default: --bandwidth)"
    )
    parser.add_argument(
        "--utilisation", type=_share, default=0.4, help="share of --device-flops that is reached (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of words")
    return parser


def _vocabulary(folder: Path, configuration: Configuration) -> int:
    if not (folder / "tokenizer.json").exists():
        return configuration.tokenizer.vocabulary
    from components.model.folders import load_tokenizer

    return len(load_tokenizer(folder))


def with_dial(configuration: Configuration, tokens: Path, vocabulary: int) -> Configuration:
    """`configuration` with shape, batch and steps as `pretrain.dial.parameters` sets them for the corpus in `tokens`.

    Raises InkwellError where there is no corpus, for weights to continue from, whose shape is their own, and for a dial in
    minutes, which only the machine that trains can resolve.
    """
    parameters = configuration.pretrain
    if parameters.dial.minutes is not None:
        raise InkwellError(
            "pretrain.dial.minutes is turned into a model by timing the machine that trains it, which is not here: set it to "
            "null, and pretrain.dial.parameters or the shape itself."
        )
    if parameters.dial.parameters is None:
        return configuration
    if parameters.initial:
        raise InkwellError("pretrain.dial.parameters: the weights of pretrain.initial have their size; set it to null.")
    # its figures alone: opening the shards would make fine-tuning, which shares this package, depend on how they are packed
    try:
        split = json.loads((tokens / "meta.json").read_text(encoding="utf-8"))["splits"]["train"]
        size, documents = int(split["tokens"]), int(split["documents"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InkwellError(
            f"pretrain.dial.parameters needs the corpus to choose batch and steps, and {tokens} (--tokens) holds none: run "
            "the tokenize step first, or set the shape itself."
        ) from error
    from components.pretrain.dial import CorpusFacts, turn
    from components.pretrain.pace import Pace
    from components.pretrain.planning import law

    # nothing is paced where no minutes are given
    resolved = turn(parameters, CorpusFacts(size, documents), vocabulary, Pace(()), law())
    return configuration.model_copy(update={"pretrain": resolved})


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; returns the exit status."""
    arguments = _parser().parse_args(argv)
    quiet_environment()
    try:
        from components.configuration import load

        configuration = load(arguments.params, arguments.set)
        parallel = configuration.machine.parallel
        cluster = Cluster(
            arguments.processes or parallel.count,
            arguments.nodes or parallel.nodes,
            arguments.device_memory,
            arguments.device_flops,
            arguments.bandwidth,
            arguments.bandwidth_inside,
            arguments.utilisation,
        )
        vocabulary = _vocabulary(arguments.tokenizer, configuration)
        configuration = with_dial(configuration, arguments.tokens, vocabulary)
        found = estimate(configuration, cluster, vocabulary)
        fits = found.fits(cluster)
        hint = "" if fits else advice(configuration, cluster, vocabulary)
    except InkwellError as error:
        print(f"dry_run: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps({**asdict(found), "fits": fits, "advice": hint}))
    else:
        print(describe(configuration, cluster, vocabulary, found))
        if not fits:
            print(f"It does not fit: {hint}", file=sys.stderr)
    return 0 if fits else 2


if __name__ == "__main__":
    sys.exit(main())
