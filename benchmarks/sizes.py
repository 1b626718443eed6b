"""Shapes that speed is measured at: Qwen3 with heads of 64 channels; the sizes hold for a vocabulary of 4,096."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _shape(hidden_size: int, layers: int, feed_forward_size: int) -> dict[str, Any]:
    heads = hidden_size // 64
    return {
        "architecture": "qwen3",
        "hidden_size": hidden_size,
        "layers": layers,
        "heads": heads,
        "key_value_heads": heads,
        "feed_forward_size": feed_forward_size,
        "tie_embeddings": False,
        "block": 256,
        "context": 1024,
    }


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _shape(128, 2, 256),  # for trying the benchmark out
    "5m": _shape(256, 4, 640),
    "14m": _shape(384, 6, 1024),
    "15m": _shape(384, 6, 1216),
    "30m": _shape(512, 8, 1408),
    "86m": _shape(768, 12, 1856),
    "124m": _shape(896, 12, 2432),
}
COMPUTED = ("14m", "30m")  # where the compute rate has a bar
SCALED = ("5m", "15m", "30m", "86m", "124m")
