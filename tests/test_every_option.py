"""Every parameter away from its default, through the real command lines, from texts to report.

`machine.device` has no other value on this hardware; that cuda is refused in words is tested with pretrain.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.configuration import Configuration, Section
from tests.tiny_corpus import poems

ROOT = Path(__file__).parents[1]
VALUES: dict[str, Any] = {
    "seed": 11,
    "language": "en",
    # of flows, and no step's: that steps run beside them is what is seen here; tests/flows/ has what they do
    "promotion": {
        "registered_model": "another",
        "error_rate": 0.1,
        "resamples": 2000,
        "minimum_documents": 20,
        "documents": 100,
        "regressions": {"next_line": 0.2},
        "maximum_growth": 2.0,
        "maximum_bytes": 100_000_000,
        "minimum_speed": 0.5,
    },
    "retraining": {"when": "drifted"},
    "notifications": {
        "events": ["kept"],
        "slack": "env:NO_SLACK",
        "webhook": "env:NO_WEBHOOK",
        "smtp": "env:NO_SMTP",
        "mail_to": ["ada@example.org"],
        "mail_from": "inkwell@example.org",
        "timeout_seconds": 3.0,
    },
    "ingest": {"limit": 380, "maximum_document_characters": 5000, "maximum_unpacked_ratio": 300},
    "tag": {
        "unicode": "NFKC",
        "mojibake": False,
        "entities": True,
        "chinese": "traditional",
        "remove": ["（[^（）]*）"],
        "maximum_characters": 40,
        "identify_language": False,
        "families": ["shape", "words", "repetition", "web", "verse", "dialogue"],
        "lines": {"javascript": True, "policy": True, "unpunctuated": False, "minimum_words": 2},
        "pii": {"email": True, "phone": True, "ip": True, "card": True},
        "duplicates": {
            "shingle_characters": 2,
            "bands": 10,
            "rows": 4,
            "floor": 0.6,
            "substring_characters": 30,
            "bloom": True,
            "bloom_error": 1e-6,
            "bloom_documents": 1000,
        },
        "contamination_ngram": 8,
        "topics": {"clusters": 3, "sample": 300},
        "perplexity": {"order": 3, "characters": 2000},
        "quality": {"ngram": 2, "holdout": 0.3},
        "judge": {
            "address": None,  # nobody answers here; tests/tag/test_judge.py asks a real server
            "model": "another",
            "key_variable": "ANOTHER_KEY",
            "prompt": "From 0 to 5: {text}",
            "sample": 3,
            "characters": 100,
            "per_minute": 600,
        },
        "executor": "local",  # tests/tag/test_executors.py starts a Ray
        "workers": 2,
    },
    "clean": {
        "denied": ["9835d637cbb357fa"],  # the first of the tiny corpus
        "policy": "verse",
        "rules": {"too_short": {"minimum": 5}, "repeated_lines": {"maximum": 0.9}, "symbols": {"off": True}},
        "languages": ["en"],  # of all documents: language is not identified
        "template": "{title}\n{author}\n{text}",
        "exact_duplicates": False,
        "near_duplicates": False,
        "jaccard": 0.8,
        "keep": "perplexity",
        "substrings": "cut",
        "contaminated": "keep",
        "topic_quota": 0.9,
        "topics_dropped": [2],
        "keep_noise": 0.1,
        "mixture": {"weights": {"tiny": 1.5}, "by": "share", "maximum_repetition": 2},
        "review_sample": 3,
        "validation_fraction": 0.2,
        "kneser_ney_order": 3,
        "kneser_ney_characters": 5000,
    },
    "validate": {
        "minimum_documents": 10,
        "minimum_characters": 100,
        "maximum_dropped_share": 0.9,
        "maximum_document_characters": 1000,
        "validation_share_tolerance": 0.9,
        "levels": {"clean_dropped_share": "warn"},
        "maximum_blank_share": 0.2,
        "maximum_source_share": 0.9,
        "minimum_conversations": 5,
        "maximum_repeated_share": 0.9,
        "maximum_length_preference": 0.95,
        "drift": {"shares": 0.1, "quantiles": 0.3, "size": 0.4},
        "accepted": "another",
    },
    "tokenizer": {"vocabulary": 420, "character_coverage": 1.0, "digits": "whole", "sample_characters": 9000},
    "tokenize": {"shard_tokens": 5000, "workers": 2},
    "machine": {
        "device": "auto",
        "precision": "fp32",
        "onednn": "off",
        "compile": "on",
        "fused": "off",
        "attention": "eager",
        "threads": 1,
        "calibrate": False,
        "micro_batch_parts": 2,
        "allocator": "off",
        # tests/training/test_distributed.py starts several processes
        "parallel": {
            "strategy": "ddp",
            "processes": 1,
            "nodes": 1,
            "launcher": "auto",
            "shard_optimizer": False,
            "tensor": 1,
            "sequence": False,
            "pipeline": 1,
        },
    },
    "pretrain": {
        "architecture": "llama",
        "hidden_size": 128,
        "layers": 1,
        "heads": 2,
        "key_value_heads": 1,
        "feed_forward_size": 256,
        "tie_embeddings": True,
        "context": 192,
        "block": 64,
        "micro_batch": 4,
        "accumulation": 3,
        "steps": 6,
        "matrix_learning_rate": 0.01,
        "embedding_learning_rate": 0.05,
        "learning_rate": 0.002,
        "weight_decay": 0.2,
        "warmup_steps": 1,
        "decay_fraction": 0.3,
        "gradient_clip": 0.5,
        "dropout": 0.1,
        # tests/pretrain/test_dial.py and tests/model/test_initial.py have these
        "dial": {"minutes": None, "parameters": None, "keep": []},
        "initial": None,
        "initial_sha256": None,
        "extend_vocabulary": 0,
        # tests/test_every_architecture.py has these
        "experts": 8,
        "experts_per_token": 2,
        "sliding_window": None,
        "state_size": 64,
        "residual_dropout": 0.1,
        "batch_ramp": 0.4,
        "optimizer": "adamw",
        "schedule": "cosine",
        "ema_decay": 0.5,
        "activation_checkpointing": True,
        "checkpoints": {"minutes": 0.01, "keep_last": 1, "keep_best": True, "history_every": 2, "other": "refuse"},
        "anomalies": {
            "window": 12,
            "z_score": 9.0,
            "spike": "skip",
            "not_finite": "stop",
            "maximum": 5,
            "stall_factor": 30.0,
            "stall": "stop",
        },
        "validation_every": 3,
        "validation_documents": 5,
        "sample_every": 3,
    },
    "instruct": {
        "write": 0.3,
        "write_in_style": 0.3,
        "continue_text": 0.2,
        "who_wrote": 0.2,
        "conversations_per_document": 1.5,
        "maximum_characters": 60,
        "form_share": 0.5,
        "lines_share": 0.5,
        "refusals": True,
        "probe_documents": 6,
        "probe_candidates": 3,
        "probe_characters": 20,
        "known_share": 0.9,
    },
    "sft": {
        "method": "lora",
        "steps": 3,
        "block": 160,
        "micro_batch": 2,
        "accumulation": 2,
        "matrix_learning_rate": 0.001,
        "embedding_learning_rate": 0.001,
        "learning_rate": 0.002,
        "weight_decay": 0.01,
        "warmup_steps": 1,
        "decay_fraction": 0.5,
        "gradient_clip": 0.5,
        "lora_rank": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.1,
        "batch_ramp": 0.4,
        "optimizer": "adamw",
        "schedule": "cosine",
        "ema_decay": 0.5,
        "activation_checkpointing": True,
        "checkpoints": {"minutes": 0.01, "keep_last": 1, "keep_best": True, "history_every": 2, "other": "refuse"},
        "anomalies": {
            "window": 12,
            "z_score": 9.0,
            "spike": "skip",
            "not_finite": "stop",
            "maximum": 5,
            "stall_factor": 30.0,
            "stall": "stop",
        },
        "validation_every": 2,
        "validation_conversations": 4,
    },
    "align": {
        "pairs": 8,
        "rejected": "corrupted",
        "faultless_samples": False,
        "validation_pairs": 4,
        "block": 160,
        "beta": 0.2,
        "epochs": 2.0,
        "batch": 4,
        "micro_batch": 2,
        "learning_rate": 1e-4,
        "sft_weight": 0.5,
        "checkpoint_steps": 1,
    },
    "sampling": {
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "maximum_tokens": 24,
    },
    "evaluate": {
        "documents": 6,
        "characters": 2000,
        "choices": 3,
        "titles": 4,
        "other_titles": 2,
        "verbatim_characters": 8,
    },
    "export": {
        "model": "sft",
        "formats": ["f16", "q8_0"],
        "comparison_documents": 2,
        "comparison_prompts": 2,
        "comparison_tokens": 8,
    },
    "report": {"title": "Another title", "samples": 2},
    "tracking": {"enabled": True, "uri": "sqlite:///tracking.db", "experiment": "another"},
}


# off would exercise nothing, or needs what other tests start
# (or takes away everything: these poems do not end as English sentences do)
_AS_BY_DEFAULT = {
    "tag.lines.unpunctuated",
    "instruct.refusals",
    "tracking.enabled",
    "tag.judge.address",
    "tag.executor",
    *(
        f"machine.parallel.{name}"
        for name in (
            "strategy",
            "processes",
            "nodes",
            "launcher",
            "shard_optimizer",
            "tensor",
            "sequence",
            "pipeline",
        )
    ),
    *(f"pretrain.dial.{name}" for name in ("minutes", "parameters", "keep")),
    *(
        f"pretrain.{name}"
        for name in (
            "initial",
            "initial_sha256",
            "extend_vocabulary",
            "experts",
            "experts_per_token",
            "sliding_window",
            "state_size",
        )
    ),
}


def _fields(model: type[Section], values: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Path, value above and field of every parameter; items of lists (sources) are exercised elsewhere."""
    for name, field in model.model_fields.items():
        shown = field.alias or name
        inner = field.annotation
        value = values.get(shown, "missing")
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _fields(inner, value, f"{path}{shown}.")
        elif shown != "sources":
            yield f"{path}{shown}", value, field


def test_the_list_above_names_every_parameter_and_no_default() -> None:
    for path, value, field in _fields(Configuration, VALUES, ""):
        assert value != "missing", f"{path} is not exercised"
        if path not in _AS_BY_DEFAULT:
            assert value != field.get_default(call_default_factory=True), f"{path} has its default"


def test_every_option_runs(tmp_path: Path) -> None:
    (tmp_path / "poems.json").write_text(json.dumps(poems(), ensure_ascii=False), encoding="utf-8")
    source = {"name": "tiny", "kind": "path", "location": "poems.json", "text_field": "paragraphs", "license": "MIT"}
    values = {**VALUES, "ingest": {**VALUES["ingest"], "sources": [source]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage, described in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        # the tracking parameters are exercised by one step: each costs the start of MLflow
        environment["INKWELL_TRACKING"] = "on" if stage == "validate" else "off"
        command = [sys.executable, *described["cmd"].split()[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, f"{stage}: {done.stdout}{done.stderr}"
    assert (tmp_path / "tracking.db").exists()
    assert "Another title" in (tmp_path / "reports/index.html").read_text(encoding="utf-8")
    config = json.loads((tmp_path / "models/base/config.json").read_text())
    assert (config["model_type"], config["tie_word_embeddings"], config["num_key_value_heads"]) == ("llama", True, 1)
    assert sorted(p.suffix for p in (tmp_path / "models/export").glob("*.gguf")) == [".gguf"] * 2
    clean = json.loads((tmp_path / "metrics/clean.json").read_text())
    assert clean["kneser_ney_order"] == 3
