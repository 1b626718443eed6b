"""Command line of `pretrain`."""

import sys

from components.machine.allocator import keep_large_blocks
from components.step import Step, main

STEP = Step(
    name="pretrain",
    summary="Train a stock transformers decoder on the packed tokens with Lightning. Killed and started again, it goes "
    "on from its last checkpoint, bit for bit. Devices cuda and mps: untested on this hardware.",
    function="components.pretrain.stage:run",
    inputs={"tokens": "data/tokens", "tokenizer": "models/tokenizer"},
    outputs={"model": "models/base", "curve": "data/curves/pretrain.csv", "samples": "data/samples/pretrain.jsonl"},
    sections_read=("machine", "sampling"),
    together=True,
)

if __name__ == "__main__":
    keep_large_blocks("components.pretrain")
    sys.exit(main(STEP))
