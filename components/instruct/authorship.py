"""Whose text is it? What the base model knows of authors, measured before it is asked to talk about them.

The base model has read documents as "title, author, text". It knows an author when, over documents that it was
trained on, the text is likelier under the right name than under other authors' names (Bayes with equal priors, so
that an author is not "known" only for being common). A model that is taught to name authors it does not know learns
to make names up (Gekhman et al., "Does Fine-Tuning LLMs on New Knowledge Encourage Hallucinations?",
arXiv 2405.05904); so for those it is taught to say that it does not know.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.corpus.cutting import head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from components.configuration import Instruct

# Under this many probed documents an author's score says nothing.
_FEWEST_DOCUMENTS = 3
_DOCUMENTS_AN_AUTHOR = 10
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Knowledge:
    """What was measured: `right[author]` of `probed[author]` documents were recognised; `known` are the authors kept."""

    known: frozenset[str]
    right: Mapping[str, int]
    probed: Mapping[str, int]
    candidates: int

    @property
    def accuracy(self) -> float:
        """Share of probed documents whose author came first; 0 where none was probed."""
        return sum(self.right.values()) / max(1, sum(self.probed.values()))

    def described(self) -> dict[str, Any]:
        """For `probe.json`."""
        return {
            "documents": sum(self.probed.values()),
            "candidates": self.candidates,
            "accuracy": round(self.accuracy, 4),
            "authors": [
                {
                    "author": author,
                    "documents": count,
                    "right": self.right.get(author, 0),
                    "known": author in self.known,
                }
                for author, count in self.probed.items()
            ],
        }


def probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    documents: Sequence[Mapping[str, Any]],
    template: str,
    settings: Instruct,
    seed: int,
) -> Knowledge:
    """Measure which authors `model` recognises.

    documents: title, author and text of documents that the model was trained on, every author worth naming.
    template: `clean.template`, by which these became what it read. Each probed document is scored under its own
    author and under the commonest others, `settings.probe_candidates` names in all. A corpus of a single author needs
    no probing: he is known. Where the template does not show authors, none is.
    """
    by_author: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for document in documents:
        by_author[document["author"]].append(document)
    if len(by_author) < 2 or "{author}" not in template:
        known = frozenset(by_author) if "{author}" in template or len(by_author) == 1 else frozenset()
        return Knowledge(known, {}, {}, len(by_author))
    ranked = [
        author
        for author, _ in sorted(
            Counter({author: len(its) for author, its in by_author.items()}).items(),
            key=lambda pair: (-pair[1], pair[0]),
        )
    ]
    candidates = min(settings.probe_candidates, len(ranked))
    rng = random.Random(f"{seed}:authorship")
    chosen: list[Mapping[str, Any]] = []
    for author in ranked:
        its = by_author[author]
        chosen += rng.sample(its, min(len(its), _DOCUMENTS_AN_AUTHOR, settings.probe_documents - len(chosen)))
        if len(chosen) >= settings.probe_documents:
            break
    questions: list[tuple[str, str]] = []  # what is given, what is scored
    for document in chosen:
        others = [author for author in ranked[:candidates] if author != document["author"]][: candidates - 1]
        for author in [document["author"], *others]:
            questions.append(_given_and_scored(template, document, author, settings.probe_characters))
    scores = _log_likelihoods(model, tokenizer, questions)
    right: Counter[str] = Counter()
    probed: Counter[str] = Counter()
    for index, document in enumerate(chosen):
        own, *others_scores = scores[index * candidates : (index + 1) * candidates]
        probed[document["author"]] += 1
        right[document["author"]] += all(own > other for other in others_scores)
    known = frozenset(
        author
        for author, count in probed.items()
        if count >= _FEWEST_DOCUMENTS and right[author] >= settings.known_share * count
    )
    return Knowledge(known, right, probed, candidates)


def _given_and_scored(template: str, document: Mapping[str, Any], author: str, limit: int) -> tuple[str, str]:
    """A document under another author's name, divided: the text after the name, or the name after the text."""
    if not document["title"]:
        template = template.replace("{title}\n", "").replace("{title}", "")
    before, after = template.split("{author}", 1)
    fill = {"{title}": document["title"] or "", "{text}": head(document["text"], limit)}
    for name, value in fill.items():
        before, after = before.replace(name, value), after.replace(name, value)
    return (before + author, after) if "{text}" in template.split("{author}", 1)[1] else (before, author + after)


def _log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, questions: Sequence[tuple[str, str]]
) -> list[float]:
    """Log-likelihood (nats) of the second string after the first, for each pair; batched by length."""
    import torch

    from components.chat.markup import escape
    from components.progress import bar

    begin = int(tokenizer.bos_token_id)
    context = int(model.config.max_position_embeddings)
    given = tokenizer([escape(before) for before, _ in questions], add_special_tokens=False)["input_ids"]
    whole = tokenizer([escape(before + after) for before, after in questions], add_special_tokens=False)["input_ids"]
    sequences: list[tuple[int, list[int], int]] = []
    for index, (start, tokens) in enumerate(zip(given, whole, strict=True)):
        # A token may span the seam; then it counts as scored.
        shared = next((i for i, (a, b) in enumerate(zip(start, tokens, strict=False)) if a != b), len(start))
        sequences.append((index, [begin, *tokens][:context], 1 + shared))
    sequences.sort(key=lambda sequence: len(sequence[1]), reverse=True)
    scores = [0.0] * len(questions)
    decoder, unembed = model.base_model, model.get_output_embeddings()
    with torch.inference_mode(), bar("which authors the base model knows", len(questions)) as progress:
        position = 0
        while position < len(sequences):
            longest = len(sequences[position][1])
            batch = sequences[position : position + max(1, _BATCH_TOKENS // longest)]
            position += len(batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            scored = torch.zeros(len(batch), longest, dtype=torch.bool)
            for row, (_, tokens, first) in enumerate(batch):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                scored[row, first : len(tokens)] = True
            # Padding stands on the right, where causal attention never sees it. Logits are made only where needed.
            states = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][scored[:, 1:]]
            losses = torch.nn.functional.cross_entropy(
                unembed(states).float(), ids[:, 1:][scored[:, 1:]], reduction="none"
            )
            rows = scored[:, 1:].nonzero()[:, 0]
            sums = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, rows, losses.double())
            for (index, _, _), value in zip(batch, sums.tolist(), strict=True):
                scores[index] = -value
            progress.advance(len(batch))
    return scores
