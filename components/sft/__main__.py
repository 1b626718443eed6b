"""Command line of `sft`."""

import sys

from components.machine.allocator import keep_large_blocks
from components.step import Step, main

STEP = Step(
    name="sft",
    summary="Fine-tune the base model on conversations, all weights or LoRA, loss on the answers only. Killed and "
    "started again, it goes on from its last checkpoint. Devices cuda and mps: untested on this hardware.",
    function="components.sft.stage:run",
    inputs={"conversations": "data/instruct", "base": "models/base"},
    outputs={"model": "models/sft", "curve": "data/curves/sft.csv"},
    sections_read=("machine",),
    together=True,
)

if __name__ == "__main__":
    keep_large_blocks("components.sft")
    sys.exit(main(STEP))
