"""Weights and tokenizer of a model that is trained further, and its embeddings for a vocabulary that has grown.

Only safetensors and GGUF are read, never pickles, and no code that lies beside a model runs.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from components.fetching.models import Located, locate
from components.vocabulary.source import SourceTokenizer, read_source, said
from components.vocabulary.spelling import read_record

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Pretrain

# what configurations call the dropout of attention weights
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


def load_initial(location: str, sha256: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model and tokenizer at `location` (`components.fetching.models.locate`) as they are, float32.

    Raises InkwellError with one sentence for what is missing, of another hash, quantized for another library, held in
    pickles only, or no model that continues text.
    """
    from transformers import PreTrainedTokenizerFast

    located = locate(location, sha256)
    model, source = read_model(located), read_source(located)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=source.backend,
        bos_token=source.begin,
        eos_token=source.end,
        unk_token=source.unknown,
        pad_token=source.padding,
        clean_up_tokenization_spaces=False,
    )
    return model, tokenizer


def read_model(located: Located) -> PreTrainedModel:
    """The weights of a model, float32, in evaluation mode."""
    if located.path.is_dir():
        model = _read_folder(located.path)
    else:
        from components.gguf.model import read_gguf_model

        model = read_gguf_model(located.path)
    if _hears_the_future(model):
        raise InkwellError(
            f"{located.name}: {type(model).__name__} reads ahead of the token that it predicts, so it cannot continue text: "
            "take a decoder."
        )
    return model


def _read_folder(folder: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = _read_config(folder)
    name = folder.name
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise InkwellError(f"{name} is quantized ({method}); take the model that it was made of.")
    if not list(folder.glob("*.safetensors")):
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)]
        raise InkwellError(
            f"{name} holds its weights as a pickle only ({pickles[0]}), which could run any code: take its safetensors."
            if pickles
            else f"{name} holds no weights (*.safetensors): copy or fetch the whole folder again."
        )
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and json have many kinds; each means the same to the user
        raise InkwellError(
            f"{name}: model_type {config.get('model_type', 'none')!r} cannot be read as a model that continues text ({said(error, folder)})."
        ) from error
    if told["missing_keys"]:
        missing = sorted(told["missing_keys"])
        raise InkwellError(
            f"{name} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}: it is another kind of model."
        )
    model.config.name_or_path = ""  # a path of this machine
    loaded: PreTrainedModel = model.eval()
    return loaded


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        hint = " (an adapter: merge it into its model first)" if (folder / "adapter_config.json").exists() else ""
        raise InkwellError(f"{folder.name} is no model folder, it holds no config.json{hint}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InkwellError(f"{folder.name}/config.json is damaged ({error}): fetch or copy it again.") from error
    if not isinstance(config, dict):
        raise InkwellError(f"{folder.name}/config.json holds no JSON object: fetch or copy it again.")
    return config


def _hears_the_future(model: PreTrainedModel) -> bool:
    """Whether what is said of a token changes with the one after it."""
    import torch

    first, second = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 6, 7, 9]])
    with torch.inference_mode():
        difference = (model(input_ids=first).logits - model(input_ids=second).logits)[0, :3].abs().max()
    return bool(difference > 1e-3)


def initial_model(parameters: Pretrain, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The model of `pretrain.initial`, float32 and in training mode, fit for the tokens of `tokenizer`.

    tokenizer: what the tokenizer step wrote, which begins with the model's own. Its further tokens get rows of the
    embeddings (`grow`). Ids of begin, end and padding are the tokenizer's, `trained_length` is `pretrain.block`, the rest
    of the configuration is the model's. Raises InkwellError where tokenizer or block do not fit the model.
    """
    from transformers import GenerationConfig

    from components.model.architectures import context_of

    assert parameters.initial is not None
    located = locate(parameters.initial, parameters.initial_sha256)
    record = read_record(Path(tokenizer.name_or_path))
    if record is not None and record["sha256"] != located.sha256:
        raise InkwellError(
            f"{located.name} has changed since its tokenizer was taken over: run the tokenizer step again."
        )
    model, source = read_model(located), read_source(located)
    longest = context_of(model.config)
    if parameters.block > longest:
        raise InkwellError(
            f"pretrain.block = {parameters.block} is longer than the context of {located.name}, {longest}."
        )
    grow(model, source, tokenizer.backend_tokenizer)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name, token in ids.items():
        setattr(model.config, name, token)
    model.generation_config = GenerationConfig(**ids)
    model.config.trained_length = parameters.block
    _set_dropout(model, parameters.dropout, located.name)
    return model.train()


def _set_dropout(model: PreTrainedModel, share: float, name: str) -> None:
    """Drop `share` of the attention weights while training, and nothing else that the model was once trained to drop.

    The configuration says so too: fine-tuning reads it from there. Raises InkwellError where `share` finds no attention
    weights to be dropped.
    """
    import torch

    for key in [key for key, value in vars(model.config).items() if "drop" in key and _is_number(value)]:
        setattr(model.config, key, share if key in _ATTENTION_DROPOUT else 0.0)
    attention: set[tuple[str, str]] = set()
    if share:
        # which layers drop attention weights, and under what name, only the model's own code knows
        with torch.device("meta"):
            twin = type(model)(copy.deepcopy(model.config))
        attention = {place for place, value in _dropouts(twin).items() if value == share}
        if not attention:
            raise InkwellError(
                f"pretrain.dropout = {share:g}: {name} has no dropout of attention weights; set it to 0."
            )
    for place in _dropouts(model):
        module, attribute = place
        setattr(model.get_submodule(module), attribute, share if place in attention else 0.0)


def _dropouts(model: PreTrainedModel) -> dict[tuple[str, str], float]:
    """Shares that layers drop, by the names of the layer and of its attribute."""
    from torch import nn

    return {
        (name, attribute): value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if _is_number(value) and ("drop" in attribute or (attribute == "p" and isinstance(module, nn.Dropout)))
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def grow(model: PreTrainedModel, source: SourceTokenizer, target: Tokenizer) -> int:
    """Give the tokens that `target` has beyond `source` rows in the input and output embeddings, and return their number.

    A new token begins as the mean of the rows of the tokens that spelled it before (Fast Vocabulary Transfer, Gee et al.
    2022, arXiv 2402.09977). Tied embeddings stay tied; what is there already is not touched. Raises InkwellError
    where `target` does not begin with `source`.
    """
    import torch

    known = source.backend.get_vocab(with_added_tokens=True)
    wanted = target.get_vocab(with_added_tokens=True)
    if any(wanted.get(token) != number for token, number in known.items()):
        raise InkwellError(
            "models/tokenizer was not made of the tokenizer of pretrain.initial: run the tokenizer step again."
        )
    new = {token: number for token, number in wanted.items() if token not in known}
    if not new:
        return 0
    rows = model.get_input_embeddings().weight.shape[0]
    if max(known.values()) >= rows:
        raise InkwellError(f"pretrain.initial: its tokenizer has more tokens than its model has rows ({rows}).")
    if (size := 1 + max(wanted.values())) > rows:
        model.resize_token_embeddings(size, mean_resizing=False)
    parts = _parts(new, source, target)
    tables = {id(table): table for table in _tables(model)}
    with torch.no_grad():
        for table in tables.values():
            for token, ids in parts.items():
                table[token] = table[ids].mean(0)
    return len(new)


def _tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """What has a row (or a number) for every token: both embeddings and the head's bias."""
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    return [model.get_input_embeddings().weight, head.weight, *([] if bias is None else [bias])]


def _parts(new: dict[str, int], source: SourceTokenizer, target: Tokenizer) -> dict[int, list[int]]:
    """For each new token, by id, the old ones that spelled it.

    A token that merges made is taken apart by them, as the old tokenizer would have left it; a character that had none was
    spelled in bytes; one that is found in the text as a whole is encoded by the old tokenizer.
    """
    known = source.backend.get_vocab(with_added_tokens=True)
    made: dict[str, tuple[str, str]] = {}
    for merge in json.loads(target.to_str())["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
        made.setdefault(left + right, (left, right))
    found: dict[str, list[int]] = {}

    def taken_apart(token: str) -> list[int]:
        if token in known:
            return [known[token]]
        if token not in found:
            left, right = made[token]
            found[token] = taken_apart(left) + taken_apart(right)
        return found[token]

    parts = {}
    for token, number in new.items():
        parts[number] = (
            taken_apart(token) if token in made else source.backend.encode(token, add_special_tokens=False).ids
        )
    return parts
