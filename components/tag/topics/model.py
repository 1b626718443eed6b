"""Topics: clusters of documents, learnt from a sample and given to any number of documents batch by batch.

Units are weighed by TF-IDF, projected by a truncated SVD (Deerwester et al. 1990), made unit vectors and clustered by k-means; a
topic's telling terms are those of the largest log-odds z-score against all other topics (Monroe, Colaresi and Quinn 2008).

The same texts, settings and seed give the same topics: everything runs on one thread, whatever the machine offers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.tag.topics.units import PAIR_SHIFT, READ, WORD_BIT, Units, batches, units

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from components.configuration.tag import Topics


_SAMPLE_CHARACTERS = 25_000_000  # of all sampled documents together; longer ones are read less far
_VOCABULARY = 30_000  # units, the most frequent
_COMMON = 0.3  # a unit in a larger share of a language's documents tells no topic
_LANGUAGE_DOCUMENTS = 50  # fewer say little about which units are common in a language
_DIMENSIONS = 100
_SVD_DOCUMENTS = 12_000  # the axes are learnt from so many of the sample
_DOCUMENTS_A_TOPIC = 10  # fewer documents make fewer topics
_RARE = 5  # documents that a term must stand in to be told, in a large sample
_FORM_DOCUMENTS = 200  # of a topic, read for the commonest form of each telling word


@dataclass(frozen=True)
class Model:
    """What `learn` found: V units, D axes, K topics numbered from the largest in the sample.

    `keys` uint64[V] sorted, `weights` float32[V] (inverse document frequency), `projection` float32[V, D], `mean`
    float32[D], `centres` float64[K, D] (unit vectors), `told` the telling terms of each topic.
    """

    keys: NDArray[np.uint64]
    weights: NDArray[np.float32]
    projection: NDArray[np.float32]
    mean: NDArray[np.float32]
    centres: NDArray[np.float64]
    told: tuple[tuple[str, ...], ...]

    @property
    def topics(self) -> int:
        """How many there are."""
        return len(self.centres)

    def terms(self, most: int = 8) -> list[list[str]]:
        """The telling terms of each topic, the most telling first."""
        return [list(terms[:most]) for terms in self.told]

    def assign(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Topic int32[N] and nearness to its centre float64[N] (cosine) of each text.

        A text without a known unit (and any, where there are no topics) has topic -1 and nearness NaN. A text's result
        does not depend on its neighbours in the batch.
        """
        topics = np.full(len(texts), -1, np.int32)
        nearness = np.full(len(texts), np.nan)
        if not self.topics:
            return topics, nearness
        for first, vectors in self._vectors(texts):
            known = np.flatnonzero(vectors.any(axis=1))
            with one_thread():
                cosines = vectors[known].astype(np.float64) @ self.centres.T
            best = cosines.argmax(axis=1)
            topics[first + known] = best
            # The last bits depend on how many rows are multiplied at once: they are no part of the outcome.
            nearness[first + known] = cosines[np.arange(len(known)), best].round(6)
        return topics, nearness

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32[N, D] of the texts; zero where a text has no known unit."""
        found = [vectors for _, vectors in self._vectors(texts)]
        return np.concatenate(found) if found else np.zeros((0, self.projection.shape[1]), np.float32)

    def _vectors(self, texts: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for (first, documents), batch in batches(texts, READ):
            weighed = _weighed(_counts(batch, documents, self.keys), self.weights)
            yield first, _projected(weighed, self.projection, self.mean)

    def save(self, path: Path) -> None:
        """Write the model as one .npz file."""
        np.savez(
            path, keys=self.keys, weights=self.weights, projection=self.projection, mean=self.mean, centres=self.centres,
            told=np.array(["\n".join(terms) for terms in self.told], dtype=np.str_),
        )  # fmt: skip

    @staticmethod
    def load(path: Path) -> Model:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as found:
            told = tuple(tuple(str(terms).split("\n")) if str(terms) else () for terms in found["told"])
            return Model(
                found["keys"], found["weights"], found["projection"], found["mean"], found["centres"], told
            )  # fmt: skip


def learn(texts: Sequence[str], languages: Sequence[str], settings: Topics, seed: int) -> Model:
    """Learn `settings.clusters` topics from a sample of texts with their languages (ISO 639-1).

    At most `settings.sample` texts are read, evenly spread over those given. A sample of fewer than ten documents a topic gives
    fewer topics; one without a letter, or `clusters: 0`, gives none.
    """
    if len(texts) > settings.sample:
        chosen = np.linspace(0, len(texts) - 1, settings.sample).astype(np.int64)
        texts, languages = [texts[row] for row in chosen], [languages[row] for row in chosen]
    import sklearn.cluster  # noqa: F401  (before the threads are limited)

    read = int(np.clip(_SAMPLE_CHARACTERS // max(1, len(texts)), 200, READ))
    keys, weights = _vocabulary(texts, languages, read)
    if not settings.clusters or len(keys) < 2:
        return _no_topics()
    with one_thread():
        counts = _stacked([_counts(units, first[1], keys) for first, units in batches(texts, read)])
        weighed = _weighed(counts, weights)
        with_units = np.flatnonzero(np.diff(counts.indptr))
        projection, mean = _axes(weighed[with_units], seed)
        vectors = _projected(weighed, projection, mean)
        centres, topics = _clusters(vectors[with_units], settings.clusters, seed)
        placed = np.full(len(texts), -1, np.int64)
        placed[with_units] = topics
        told = _telling(texts, languages, read, counts, placed, keys, len(centres))
    return Model(keys, weights, projection, mean, centres, told)


def _no_topics() -> Model:
    nothing = np.zeros(0, np.float32)
    return Model(
        np.zeros(0, np.uint64), nothing, nothing.reshape(0, 1), np.zeros(1, np.float32), np.zeros((0, 1)), ()
    )  # fmt: skip


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in a fixed order: with more threads the last bits, and with them the clusters, differ between machines.

    It holds for libraries that are loaded already: what is used inside must be imported before.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def library_seed(seed: int) -> int:
    """The pipeline's seed as scikit-learn takes it: below 2^32."""
    return seed % 2**32


def _vocabulary(
    texts: Sequence[str], languages: Sequence[str], read: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """The most frequent units that are not common in a language: their sorted keys, and their weights."""
    names = sorted({language for language, count in Counter(languages).items() if count >= _LANGUAGE_DOCUMENTS})
    numbers = {name: number for number, name in enumerate(names)}
    language = np.array([numbers.get(name, len(names)) for name in languages], np.int64)
    amounts = np.bincount(language, minlength=len(names) + 1)
    keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
    found = np.zeros((0, len(names) + 1), np.int64)  # documents that hold the unit, by language
    for (first, count), batch in batches(texts, read):
        distinct, number = np.unique(batch.key, return_inverse=True)
        once = np.unique(number * count + batch.document)  # each unit counts once a document
        here = np.zeros((len(distinct), len(names) + 1), np.int64)
        np.add.at(here, (once // count, language[first + once % count]), 1)
        merged = np.union1d(keys, distinct)
        total = np.zeros((len(merged), len(names) + 1), np.int64)
        total[np.searchsorted(merged, keys)] += found
        total[np.searchsorted(merged, distinct)] += here
        keys, found = merged, total
    frequency = found.sum(axis=1)
    everywhere = found[:, : len(names)] > _COMMON * amounts[: len(names)]
    # Where most of a language's units are common, its documents are of one pattern, and there is nothing else to tell them by.
    everywhere &= everywhere.sum(axis=0) <= 0.5 * (found[:, : len(names)] > 0).sum(axis=0)
    common = np.asarray(everywhere.any(axis=1))
    if not names:
        common |= frequency > max(_COMMON * len(texts), 2)
    common |= np.isin(keys, _stop_words(names))
    if common.all():  # every document says the same
        common[:] = False
    usable = np.flatnonzero(~common & (frequency >= (2 if len(texts) >= 2 * _DOCUMENTS_A_TOPIC else 1)))
    usable = usable[np.lexsort((keys[usable], -frequency[usable]))][:_VOCABULARY]
    usable.sort()
    weights = np.log((1 + len(texts)) / (1 + frequency[usable])) + 1
    return keys[usable], weights.astype(np.float32)


def _stop_words(languages: Sequence[str]) -> NDArray[np.uint64]:
    """Keys of words that tell no topic in these languages."""
    from components.corpus.language_facts import facts

    found = units(sorted({word for language in languages for word in facts(language).stop_words}))
    return found.key[found.key >= WORD_BIT]


def _counts(batch: Units, documents: int, keys: NDArray[np.uint64]) -> csr_matrix:
    """How often each unit stands in each document: float32 sparse [documents, V]."""
    from scipy.sparse import csr_matrix

    place = np.minimum(np.searchsorted(keys, batch.key), max(0, len(keys) - 1))
    known = keys[place] == batch.key if len(keys) else np.zeros(len(batch.key), bool)
    cells, amounts = np.unique(batch.document[known] * len(keys) + place[known], return_counts=True)
    rows = np.bincount(cells // max(1, len(keys)), minlength=documents)
    ends = np.concatenate([[0], np.cumsum(rows)])
    columns = (cells % max(1, len(keys))).astype(np.int32)
    return csr_matrix((amounts.astype(np.float32), columns, ends.astype(np.int32)), shape=(documents, len(keys)))


def _stacked(parts: Sequence[csr_matrix]) -> csr_matrix:
    from scipy.sparse import vstack

    return vstack(parts, format="csr")


def _weighed(counts: csr_matrix, weights: NDArray[np.float32]) -> csr_matrix:
    """TF-IDF with damped counts, each row of length 1."""
    from scipy.sparse import csr_matrix

    data = (1 + np.log(counts.data)) * weights[counts.indices]
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    norms = np.sqrt(np.bincount(rows, data.astype(np.float64) ** 2, minlength=counts.shape[0]))
    data = (data / np.maximum(norms[rows], 1e-12)).astype(np.float32)
    return csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)


def _axes(weighed: csr_matrix, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Projection float32[V, D] onto the largest singular directions, and the mean float32[D] of what is projected."""
    from sklearn.utils.extmath import randomized_svd

    step = -(-weighed.shape[0] // _SVD_DOCUMENTS)
    part = weighed[::step]
    dimensions = min(_DIMENSIONS, *part.shape)
    _, _, axes = randomized_svd(part, dimensions, n_oversamples=10, n_iter=3, random_state=library_seed(seed))
    projection = np.ascontiguousarray(axes.T, dtype=np.float32)
    # What all documents share would be the largest part of every vector.
    mean = (part @ projection).mean(axis=0, dtype=np.float64) if part.shape[0] > 1 else np.zeros(dimensions)
    return projection, mean.astype(np.float32)


def _projected(weighed: csr_matrix, projection: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors = np.asarray(weighed @ projection, np.float32) - mean
    vectors[np.diff(weighed.indptr) == 0] = 0
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    made: NDArray[np.float32] = (vectors / np.maximum(norms, 1e-12)[:, None]).astype(np.float32)
    return made


def _clusters(vectors: NDArray[np.float32], clusters: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres float64[K, D] as unit vectors, the largest cluster first, and the cluster int64[N] of each vector."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(vectors.round(5), axis=0))
    number = min(clusters, max(1, len(vectors) // _DOCUMENTS_A_TOPIC), distinct)
    found = KMeans(number, n_init=3, max_iter=60, random_state=library_seed(seed)).fit(vectors)
    centres = found.cluster_centers_.astype(np.float64)
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    nearest = (vectors.astype(np.float64) @ centres.T).argmax(axis=1)
    order = np.argsort(-np.bincount(nearest, minlength=number), kind="stable")
    place = np.empty(number, np.int64)
    place[order] = np.arange(number)
    return centres[order], place[nearest]


def _telling(
    texts: Sequence[str],
    languages: Sequence[str],
    read: int,
    counts: csr_matrix,
    topics: NDArray[np.int64],
    keys: NDArray[np.uint64],
    number: int,
) -> tuple[tuple[str, ...], ...]:
    """The telling terms of each topic: pairs of characters and words, not single characters where there are others.

    A topic is told from other topics of its own language: against all others, every word of a small language would be telling.
    """
    from scipy.sparse import csr_matrix

    present = csr_matrix((np.ones_like(counts.data), counts.indices, counts.indptr), shape=counts.shape)
    language = np.array(languages, dtype=object)
    single = keys >> PAIR_SHIFT == 0
    told = []
    for topic in range(number):
        inside = topics == topic
        own = Counter(language[inside].tolist()).most_common(1)[0][0]
        others = (topics >= 0) & ~inside
        alike = others & (language == own)
        others = alike if alike.sum() >= _DOCUMENTS_A_TOPIC else others
        holds, total = (_documents(present, rows) for rows in (inside, inside | others))
        scores = _log_odds(holds, total - holds) if others.any() else holds
        scores[(total < min(_RARE, max(1, len(texts) // 100))) | (holds == 0)] = -np.inf
        scores[single] -= 1e6  # told where a topic has nothing better
        best = np.lexsort((keys, -scores))[:100]
        best = best[(scores[best] > 0) | (single[best] & np.isfinite(scores[best]))]
        forms = _forms(texts, np.flatnonzero(inside)[:_FORM_DOCUMENTS], read, keys[best])
        told.append(_apart([forms[key] for key in keys[best].tolist() if key in forms], 12))
    return tuple(told)


def _documents(present: csr_matrix, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How many of these documents hold each unit: float64[V]."""
    return np.asarray(present[np.flatnonzero(rows)].sum(axis=0), np.float64).ravel()


def _log_odds(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """z-scores [V] of the log-odds ratio of two counts with an informative Dirichlet prior."""
    prior = 0.01 * (ours + theirs) + 1e-3
    us, them = ours + prior, theirs + prior
    difference = np.log(us / (us.sum() - us)) - np.log(them / (them.sum() - them))
    scores: NDArray[np.float64] = difference / np.sqrt(1 / us + 1 / them)
    return scores


def _forms(texts: Sequence[str], rows: NDArray[np.int64], read: int, keys: NDArray[np.uint64]) -> dict[int, str]:
    """How each unit is written: its characters, or the commonest word with its stem in these documents."""
    wanted: dict[int, Counter[str]] = {key: Counter() for key in keys.tolist()}
    for _, batch in batches([texts[row] for row in rows], read):
        for place in np.flatnonzero(np.isin(batch.key, keys)):
            start = batch.start[place]
            wanted[int(batch.key[place])][batch.text[start : start + batch.length[place]]] += 1
    return {key: min(forms, key=lambda form: (-forms[form], form)) for key, forms in wanted.items() if forms}


def _apart(terms: Sequence[str], most: int) -> tuple[str, ...]:
    """The first `most` terms that say something new: no second form of a word, no second pair of a longer word's characters."""
    chosen: list[str] = []
    for term in terms:
        if len(chosen) == most:
            break
        pairs = [other for other in chosen if len(other) == 2 == len(term)]
        often = any(sum(character in other for other in pairs) > 1 for character in term)
        if not often and not any(_same(term, other) for other in chosen):
            chosen.append(term)
    return tuple(chosen)


def _same(term: str, other: str) -> bool:
    if len(term) == 2 == len(other):
        return term[0] == other[1] or term[1] == other[0]
    return len(term) > 3 < len(other) and term[:4] == other[:4]
