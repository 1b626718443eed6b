"""Command line of the tokenizer step."""

import sys

from components.step import Step, main

STEP = Step(
    name="tokenizer",
    summary="Train a SentencePiece BPE tokenizer on the training split and write its exact twin for transformers; or, where "
    "pretrain.initial names a model to go on from, take over its tokenizer. And write a report on it.",
    function="components.tokenizer.train:run",
    inputs={"documents": "data/clean", "validated": "data/validated"},
    outputs={"tokenizer": "models/tokenizer", "report": "reports/tokenizer.html"},
    sections_read=("pretrain",),  # `initial`, `initial_sha256` and `extend_vocabulary` of it
)

if __name__ == "__main__":
    sys.exit(main(STEP))
