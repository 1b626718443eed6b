"""Number formats of matrix products: which of them the machine truly multiplies faster, found by multiplying.

On CPUs bfloat16 pays only where the processor has instructions for it (AMX, AVX512-BF16); elsewhere it is emulated, many
times slower than float32, and autocast does not warn (pytorch issue 118499). On CUDA bf16 is taken where the card has it,
else fp16 with loss scaling; fp8 only when asked for. CUDA and MPS: untested on this hardware.
"""

from __future__ import annotations

import importlib.util
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.errors import InkwellError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

FP8_CAPABILITY = (8, 9)  # Ada, Hopper and later have matrix units for it
WORTH = 1.2  # another way to multiply must be this much faster before training is tried, or done, with it
_EXACT = 1e-5  # largest error of a product, as a share of its largest element: float32 keeps 1e-6, bf16 and tf32 3e-4 or worse
_SIZES = (64, 128, 256, 512, 1024)
_PATIENCE = 0.05  # seconds of one product after which no larger one is tried


def product_rate(dtype: torch.dtype, sizes: Sequence[int] = _SIZES, rounds: int = 4) -> float:
    """Floating-point operations a second of square products on the CPU, the best of `rounds` at the largest size tried.

    Sizes grow while products are quick, so that emulated arithmetic costs a fraction of a second and not a minute.
    """
    import torch

    rate = 0.0
    for size in sizes:
        left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
        seconds = []
        for _ in range(rounds + 1):  # the first one chooses a kernel
            started = time.perf_counter()
            torch.mm(left, right)
            seconds.append(time.perf_counter() - started)
            if seconds[-1] > _PATIENCE:
                break
        rate = 2.0 * size**3 / min(seconds)
        if min(seconds) > _PATIENCE:
            break
    return rate


@contextmanager
def float32_by_onednn(on: bool) -> Iterator[None]:
    """Float32 products on the CPU through oneDNN for this block, where `on`; see `onednn_gain`."""
    import torch

    before = torch.get_float32_matmul_precision()
    route_float32(on)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def route_float32(by_onednn: bool) -> None:
    """Send float32 products on the CPU to oneDNN (or back to the BLAS that PyTorch was built with) from now on.

    The only switch that PyTorch has for it also allows oneDNN to round to bfloat16, which it does on processors where that
    is faster: `onednn_gain` makes sure that it does not here.
    """
    import torch

    torch.set_float32_matmul_precision("medium" if by_onednn else "highest")


def onednn_gain() -> float:
    """How many times as fast oneDNN multiplies float32 as PyTorch's BLAS; 0 where it is not there or not as exact.

    MKL takes a path for older processors on AMD's: oneDNN was 2.2 times as fast on a Zen 5 (AVX-512), and its products
    were float32's to the last digits. Where it rounds to bfloat16 the errors show it, and it is not to be used.
    """
    import torch

    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return 0.0
    if getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
        return 0.0  # it would round, perhaps not at the sizes that are looked at below
    with float32_by_onednn(True):
        if not _exact():
            return 0.0
        routed = product_rate(torch.float32)
    with float32_by_onednn(False):
        return routed / product_rate(torch.float32)


def _exact() -> bool:
    """Whether float32 products are float32's, forwards and backwards, in several shapes."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for rows, columns, inner in ((33, 70, 129), (256, 384, 384), (512, 64, 2048), (1024, 1024, 256)):
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(columns, inner, generator=generator)
        true = left.double() @ right.double().T
        for product in (
            torch.nn.functional.linear(left, right),
            left @ right.T.contiguous(),
            (right @ left.T).T,
            torch.bmm(left[None], right.T[None])[0],
        ):
            if float((product.double() - true).abs().max() / true.abs().max()) > _EXACT:
                return False
    return True


def check_precision(wanted: str, device: str) -> None:
    """Raise InkwellError where `machine.precision` = `wanted` cannot be had on `device`; auto, fp32 and bf16 always can."""
    if wanted in ("fp16", "fp8") and device != "cuda":
        raise InkwellError(
            f"machine.precision = {wanted!r} needs machine.device = cuda (it is {device!r} here): use auto, bf16 or fp32."
        )
    if wanted != "fp8":
        return
    import torch

    if torch.cuda.get_device_capability() < FP8_CAPABILITY:
        raise InkwellError(
            "machine.precision = 'fp8' needs a CUDA card of compute capability 8.9 or later: use bf16 or auto."
        )
    if importlib.util.find_spec("torchao") is None:
        raise InkwellError("machine.precision = 'fp8' needs torchao: install it (`pip install torchao`), or use bf16.")


def accelerator_precision(device: str) -> str:
    """The precision that auto stands for on "cuda" or "mps". Untested on this hardware."""
    import torch

    if device == "cuda":
        # cards before Ampere emulate bf16; fp16 has had matrix units since Volta
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.backends.mps.is_macos_or_newer(14, 0) else "fp32"


def has_bf16(device: str) -> bool:
    """Whether `device` has instructions for products in bfloat16; else they are emulated, or not there at all (MPS).

    Told by what the hardware says of itself and not timed, so that it is the same at every start. cuda, mps: untested on
    this hardware.
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps":
        return False
    abilities = torch.cpu.get_capabilities()
    return any(bool(abilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def bf16_gain(onednn: bool) -> float:
    """How many times as fast the CPU multiplies bf16 as float32 (through oneDNN or not)."""
    import torch

    with float32_by_onednn(onednn):
        return product_rate(torch.bfloat16) / product_rate(torch.float32)


def to_float8(model: PreTrainedModel) -> None:
    """Let the linear layers inside the blocks multiply in float8, in place; weights stay float32 under their names.

    torchao's recipe of scales by tensor. The head stays as it is, and so does a layer whose sizes are no multiples of
    16, which the matrix units ask for. CUDA only: untested on this hardware.
    """
    from torch import nn
    from torchao.float8 import convert_to_float8_training

    head = model.get_output_embeddings()

    def fits(module: nn.Module, name: str) -> bool:
        return (
            isinstance(module, nn.Linear)
            and module is not head
            and module.in_features % 16 == 0
            and module.out_features % 16 == 0
        )

    convert_to_float8_training(model, module_filter_fn=fits)


def leave_float8(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Plain linear layers again where torchao's are, over the same weights, in place.

    Float8 layers need a card that has it, and would score another model than the one that is saved. Returns what was
    replaced: the module around each layer, the layer's name there, and the layer.
    """
    import torch
    from torch import nn

    found = [
        (around, name, layer)
        for around in model.modules()
        for name, layer in around.named_children()
        if isinstance(layer, nn.Linear) and type(layer).__module__.partition(".")[0] == "torchao"
    ]
    for around, name, layer in found:
        with torch.device("meta"):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight, plain.bias = layer.weight, layer.bias
        setattr(around, name, plain.train(layer.training))
    return found


@contextmanager
def without_float8(model: nn.Module) -> Iterator[None]:
    """No float8 layers while the block lasts."""
    replaced = leave_float8(model)
    try:
        yield
    finally:
        for around, name, layer in replaced:
            setattr(around, name, layer.train(getattr(around, name).training))
