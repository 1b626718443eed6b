"""Small models with a tokenizer of BPE over bytes, as other makers publish them: folders and GGUF files, made in a moment."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, trainers

from components.vocabulary import pre_tokenizers
from components.vocabulary.spelling import letters_of_bytes

END = "<|endoftext|>"
TEXTS = (
    "The people of the United States, in order to form a more perfect union, do ordain it.",
    "It's 12 o'clock; we'll see 365 days, 1812 and 2024, and they've said: I'm here, he'd gone.\n\nNext  line.",
    "Весенним утром мы долго шли вдоль реки и молчали.",
    "春山随故园，秋水照人家。春眠不觉晓，处处闻啼鸟。",
    "def f(x):\n    return x ** 2  # a comment\n",
)
_PARTS = (
    *(" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "'s", "'LL", "'", "’s", "a", "The", "house", "HTML", "word."),
    *(
        "7",
        "42",
        "365",
        "65536",
        "٣٦٥",
        "９",
        "²",
        "½",
        "Ⅻ",
        "春",
        "山",
        "春眠不觉晓",
        "，",
        "。",
        "год",
        "é",
        "e\u0301",
    ),
    *(
        "😀",
        "👨\u200d👩",
        "한국",
        "עברית",
        "_",
        "-",
        "--",
        "...",
        "!?",
        "$",
        "+=",
        "#",
        "@",
        "/",
        "\\",
        "\u00a0",
        "\u3000",
    ),
)


def noise(count: int, seed: int) -> list[str]:
    """Texts of odd parts in odd orders."""
    rng = random.Random(seed)
    return ["".join(rng.choices(_PARTS, k=rng.randint(1, 30))) for _ in range(count)]


def byte_level_tokenizer(rule: str = "gpt-2", size: int = 480, special: Sequence[str] = (END,)) -> Tokenizer:
    """A BPE over bytes, trained on `TEXTS`; the special tokens come first."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre_tokenizers.whole_words_first(rule)))
    found = pre_tokenizers.by_name(rule)
    assert found is not None
    tokenizer.pre_tokenizer = found
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(letters_of_bytes()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def byte_level_folder(folder: Path, rule: str = "gpt-2", tied: bool = True, architecture: str = "llama") -> Path:
    """A Hugging Face folder as others publish it: no tokenizer.model, no chat template, no begin token."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    from components.model.architectures import build
    from tests.tiny_models import tiny

    tokenizer = byte_level_tokenizer(rule)
    size = tokenizer.get_vocab_size()
    torch.manual_seed(3)
    if architecture == "llama":
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=tokenizer.token_to_id(END),
        )
        model: Any = LlamaForCausalLM(config)
    elif architecture == "opt":
        shape = {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = OPTForCausalLM(OPTConfig(vocab_size=size, max_position_embeddings=128, **shape))
    elif architecture == "mamba2":
        model = build(tiny("mamba2", block=128, context=128), size)
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=64, n_layer=2, n_head=4, n_positions=128))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 256, "eos_token": END}))
    return folder


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, rule: str) -> None:
    """The metadata of a vocabulary as the official converter writes them."""
    by_id = {token: text for text, token in tokenizer.get_vocab(with_added_tokens=True).items()}
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in range(len(by_id))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list([by_id[token] for token in range(len(by_id))])
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_add_bos_token(False)


def vocabulary_gguf(path: Path, size: int, add: Callable[[gguf.GGUFWriter], None], **more: str | int) -> Path:
    """A GGUF file with the vocabulary that `add` writes, around a model that knows nothing; `more`: further metadata."""
    rng = np.random.default_rng(0)
    width, inner = 32, 64
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(width // 2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for key, value in more.items():
        name = f"llama.{key}".replace("__", ".")
        if isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_uint32(name, value)
    add(writer)
    shapes = {
        "token_embd.weight": (size, width),
        "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.ffn_norm.weight": (width,),
        **{f"blk.0.attn_{part}.weight": (width, width) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (inner, width),
        "blk.0.ffn_up.weight": (inner, width),
        "blk.0.ffn_down.weight": (width, inner),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.standard_normal(shape, dtype=np.float32) / 8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
