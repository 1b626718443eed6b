"""What a stretch of a program holds in memory, computes and sends, found out by letting it run.

A `Tracer` sees every operation that PyTorch dispatches. Run with `FakeTensorMode`, nothing is computed or allocated: the
shapes alone tell, and a cluster need not be there (`torch.distributed`'s fake backend). Memory is that of the tensors;
what an allocator loses by fragmentation, and what libraries keep for themselves, is not in it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch._guards import active_fake_mode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Kinds = Callable[[], dict[str, Iterable[torch.Tensor]]]
_COLLECTIVES = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor")


@dataclass
class Work:
    """Floating-point operations, and bytes that a process sends, by the processes of the group that they are sent in."""

    operations: float = 0.0
    sent: Counter[tuple[int, ...]] = field(default_factory=Counter)

    def times(self, factor: float) -> Work:
        """The same, that many times over."""
        return Work(self.operations * factor, Counter({group: int(b * factor) for group, b in self.sent.items()}))

    def plus(self, other: Work) -> Work:
        """Both."""
        return Work(self.operations + other.operations, self.sent + other.sent)


class Tracer(TorchDispatchMode):
    """Counts live bytes, operations and bytes sent while it is entered.

    `peak`: most bytes that were live at once; `at_peak`: how many of them each kind of `kinds` held, or had that `label`, and
    "other" the rest. To know kinds, run the same work a second time after `look_for_peak`: which tensor is a gradient shows only afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.at_peak: dict[str, int] = {}
        self.work = Work()
        self._sizes: dict[int, int] = {}  # by the storage's number
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._next = self._events = self._peak_event = 0
        self._kinds: Kinds | None = None
        self._fake: Any = None
        # names of what only shows while it is made
        self.label: Callable[[torch.Tensor], str | None] = lambda tensor: None
        self._labels: dict[int, str] = {}

    def begin(self) -> None:
        """Count peak and work anew from here."""
        self.peak, self.work, self._events, self._peak_event = self.live, Work(), 0, 0

    def look_for_peak(self, kinds: Kinds) -> None:
        """Run again what was run since `begin`: when its peak comes by, `at_peak` is filled in."""
        self._kinds, self._events = kinds, 0

    @contextmanager
    def counted(self) -> Iterator[Work]:
        """The work of a block."""
        before, self.work = self.work, Work()
        found = self.work
        try:
            yield found
        finally:
            self.work = before.plus(found)

    def __enter__(self) -> Tracer:
        self._fake = active_fake_mode()
        self._resize = torch.UntypedStorage.resize_
        tracer, resize = self, self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            """fsdp2 gives memory back and takes it again this way, which no dispatcher sees."""
            result = resize(storage, size)
            tracer._measure(storage)
            return result

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(self, *arguments: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*arguments)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its shares come by next
        kwargs = kwargs or {}
        if func is torch.ops._c10d_functional.wait_tensor.default:
            return args[0]  # as on a real device: nothing new comes of waiting
        result = func(*args, **kwargs)
        if active_fake_mode() is not self._fake:
            return result  # DTensor asks for shapes; nothing is made
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._track(tensor)
        self._count(func, args, kwargs, result)
        return result

    def _track(self, tensor: torch.Tensor) -> None:
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        if tensor.device.type != "meta" or self._fake is not None:
            number = self._measure(tensor.untyped_storage())
            if label := self.label(tensor):
                self._labels[number] = label

    def _measure(self, storage: torch.UntypedStorage) -> int:
        number = self._numbers.get(storage)
        size = storage.nbytes()
        if number is None:
            number = self._next
            self._next += 1
            self._numbers[storage] = number
            self._sizes[number] = 0
            weakref.finalize(storage, self._forget, number)
        self.live += size - self._sizes[number]
        self._sizes[number] = size
        self._events += 1
        if self._kinds is None and self.live > self.peak:
            self.peak, self._peak_event = self.live, self._events
        elif self._kinds is not None and self._events == self._peak_event:
            self._take_stock(self._kinds())
        return number

    def _forget(self, number: int) -> None:
        self.live -= self._sizes.pop(number, 0)
        self._labels.pop(number, None)

    def _take_stock(self, kinds: dict[str, Iterable[torch.Tensor]]) -> None:
        seen: set[int] = set()
        for kind, tensors in kinds.items():
            total = 0
            for tensor in tensors:
                local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
                number = self._numbers.get(local.untyped_storage())
                if number is not None and number not in seen:
                    seen.add(number)
                    total += self._sizes[number]
            self.at_peak[kind] = total
        for number, label in self._labels.items():
            if number not in seen:
                self.at_peak[label] = self.at_peak.get(label, 0) + self._sizes[number]
        self.at_peak["other"] = self.live - sum(self.at_peak.values())

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        packet = func._overloadpacket
        name = packet.__name__
        if func.namespace in _COLLECTIVES:
            sent, group = _sent(name, args, kwargs, result)
            if sent:
                self.work.sent[group] += sent
        elif packet in flop_registry:
            self.work.operations += flop_registry[packet](*args, **kwargs, out_val=result)
        elif name.startswith("grouped_mm_fallback"):  # of experts: each token meets one matrix [inputs, outputs]
            tokens, matrices = args[:2]
            once = 2 * tokens.shape[0] * matrices.shape[1] * matrices.shape[2]
            self.work.operations += 2 * once if name.endswith("backward") else once
        elif name == "_scaled_dot_product_flash_attention_for_cpu":
            self.work.operations += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif name == "_scaled_dot_product_flash_attention_for_cpu_backward":
            self.work.operations += sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))


def _sent(name: str, args: Any, kwargs: Any, result: Any) -> tuple[int, tuple[int, ...]]:
    """Bytes that a process sends in a collective operation by the usual rings, and the processes of its group.

    The whole of what is exchanged is the largest of the operands: what goes in of a reduction, what comes out of a gathering.
    """
    group = _group((*args, *kwargs.values()))
    if group is None or len(group) < 2 or name.startswith(("wait", "barrier", "recv", "irecv")):
        return 0, ()
    whole = max((_bytes(operand) for operand in (*args, *kwargs.values(), result)), default=0)
    passing = (len(group) - 1) / len(group)
    if "reduce" in name and "scatter" not in name:
        passing *= 2  # scattered reductions, then gathered
    elif name.startswith(("broadcast", "send", "isend")):
        passing = 1.0
    return int(whole * passing), group


def _bytes(operand: Any) -> int:
    """Of a tensor or all tensors of a list."""
    return sum(t.numel() * t.element_size() for t in tree_iter(operand) if isinstance(t, torch.Tensor))


def _group(values: Iterable[Any]) -> tuple[int, ...] | None:
    for value in values:
        if isinstance(value, torch.ScriptObject):
            try:
                return tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(value)))
            except RuntimeError:  # the object is a reduction's kind
                continue
        if isinstance(value, str):
            try:
                found = torch._C._distributed_c10d._resolve_process_group(value)
            except (RuntimeError, LookupError):
                continue
            return tuple(dist.get_process_group_ranks(found))
    return None
