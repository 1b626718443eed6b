"""litgpt's own conversion of all checkpoints of a run, in its environment: `python litgpt_convert.py OUT_DIR`.

Beside every lit_model.pth comes a model.pth with the names of transformers.
"""

import sys
from pathlib import Path

from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint

if __name__ == "__main__":
    for checkpoint in sorted(Path(sys.argv[1]).glob("*/lit_model.pth")):
        convert_lit_checkpoint(checkpoint.parent, checkpoint.parent)
