"""Command line of `align`."""

import sys

from components.machine.allocator import keep_large_blocks
from components.step import Step, main

STEP = Step(
    name="align",
    summary="Direct preference optimization (trl): real texts are preferred to damaged ones and to the model's own "
    "worse samples.",
    function="components.align.stage:run",
    inputs={"instruct": "data/instruct", "sft": "models/sft"},
    outputs={"aligned": "models/aligned", "preferences": "data/preferences", "curve": "data/curves/align.csv"},
    sections_read=("sampling", "machine"),
)

if __name__ == "__main__":
    keep_large_blocks("components.align")
    sys.exit(main(STEP))
