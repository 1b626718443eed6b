"""Held-out bits per character of trained models, whoever trained them: `python -m benchmarks.peers.scores REQUEST.json`.

The request names packed tokens, how many of the held-out documents are read (null: all), and models, each a transformers
folder or weights with the shape of a Llama. The last line of output is a JSON list, a figure a model. The figure is that of
`pretrain`: `components.model.scoring.document_bits` in float32, end marks counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def score(request: dict[str, Any]) -> list[float]:
    """Bits per character of each model of the request."""
    import numpy as np

    from components.corpus.packed import TokenShards
    from components.model.scoring import document_bits, trained_length

    shards = TokenShards(Path(request["tokens"]), "validation")
    count = len(shards) if request["documents"] is None else min(request["documents"], len(shards))
    picked = np.unique(np.linspace(0, len(shards) - 1, count).astype(int))
    documents = [shards.document(int(index)) for index in picked]
    share = sum(len(document) - 1 for document in documents) / (shards.tokens - len(shards))
    characters = (shards.characters + len(shards)) * share
    found = []
    for entry in request["models"]:
        model = _model(entry)
        assert trained_length(model) == request["block"], "windows of long documents must be the same for all"
        found.append(float(document_bits(model, documents).sum()) / characters)
    return found


def _model(entry: dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from components.model.folders import load_model

    if "folder" in entry:
        return load_model(Path(entry["folder"]))
    model = LlamaForCausalLM(LlamaConfig(**entry["shape"]))
    model.load_state_dict(torch.load(entry["weights"], map_location="cpu", weights_only=True))
    return model.float().eval()


if __name__ == "__main__":
    print(json.dumps(score(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
