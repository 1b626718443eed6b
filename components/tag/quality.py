"""How much a text resembles the good examples and not the bad ones: a classifier trained on what the user gives.

Features: character n-grams of 1 .. `ngram`, hashed into 2**18 buckets (no vocabulary, any script), log(1 + count), scaled to
unit length. Model: logistic regression, good and bad weighing the same however many there are of each, so that 0.5 means
"as much like the one as like the other"; its scores are turned into probabilities by a sigmoid fitted to out-of-fold scores
(Platt 1999). On bodies of e-mails (wanted against unsolicited) logarithms of counts gave an area under the curve of 0.999,
plain counts 0.996.

The model is stored as plain arrays: nothing in the file is executed when it is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.atomic import atomic_file
from components.errors import InkwellError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from components.configuration.tag import Quality

    Floats = NDArray[np.float64]

FILE = "quality.npz"
_FEATURES = 2**18
_CHARACTERS = 20_000  # of a text that are looked at: its beginning
_AT_ONCE = 2_000_000  # characters whose features are in memory at a time
_FEWEST = 20  # distinct examples of either kind
_FOLDS = 5
_INVERSE_REGULARISATION = 10.0
_ROUNDS = 1_000


def train(
    good: Path, bad: Path, settings: Quality, seed: int, folder: Path, normalise: Callable[[str], str] | None = None
) -> dict[str, float]:
    """Train on the documents (raw schema) of the two files and write the model into `folder`.

    normalise: what is done to the texts of the corpus before they are scored, so that it is done to the examples too.
    Returns, on the `holdout` share of the distinct examples that the model never saw: accuracy at 0.5, area under the ROC
    curve, and Brier score (mean squared error of the probability); and how many examples of each kind there were.
    An example that is both good and bad is left out. InkwellError when there are too few.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import brier_score_loss, roc_auc_score
    from sklearn.model_selection import StratifiedKFold, train_test_split

    examples = [_examples(path, role, normalise) for path, role in ((good, "good"), (bad, "bad"))]
    both = examples[0].keys() & examples[1].keys()
    kinds = [[text for text in texts if text not in both] for texts in examples]
    for path, role, texts in zip((good, bad), ("good", "bad"), kinds, strict=True):
        if len(texts) < _FEWEST:
            raise InkwellError(
                f"{path} holds {len(texts)} distinct examples and the quality classifier needs at least {_FEWEST} of "
                f"either kind: add some to a source of role {role} in ingest.sources, or remove the sources of roles good and bad."
            )
    labels = np.repeat([1, 0], [len(texts) for texts in kinds])
    features = _features([*kinds[0], *kinds[1]], settings.ngram)
    learnt, held_out = train_test_split(
        np.arange(len(labels)), test_size=settings.holdout, random_state=seed, stratify=labels
    )
    weights = _balanced(labels)
    classifier = CalibratedClassifierCV(
        LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=_ROUNDS),
        method="sigmoid",
        cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=seed),
        ensemble=False,
    )
    classifier.fit(features[learnt], labels[learnt], sample_weight=weights[learnt])
    fitted = classifier.calibrated_classifiers_[0]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            ngram=np.array(settings.ngram),
            coefficients=fitted.estimator.coef_[0].astype(np.float64),
            intercept=fitted.estimator.intercept_[0],
            slope=fitted.calibrators[0].a_,
            offset=fitted.calibrators[0].b_,
        )
    scores = load(folder)._probabilities(features[held_out])
    truth, fair = labels[held_out], weights[held_out]
    return {
        "quality_good_examples": len(kinds[0]),
        "quality_bad_examples": len(kinds[1]),
        "quality_ambiguous_examples": len(both),
        "quality_holdout_examples": len(held_out),
        "quality_accuracy": float(((scores >= 0.5) == truth).mean()),
        "quality_roc_auc": float(roc_auc_score(truth, scores)),
        "quality_brier": float(brier_score_loss(truth, scores, sample_weight=fair)),
    }


class Classifier:
    """What `train` wrote; `load` reads it."""

    def __init__(self, ngram: int, coefficients: Floats, intercept: float, slope: float, offset: float) -> None:
        self._ngram = ngram
        self._coefficients = coefficients
        self._intercept = intercept
        self._slope, self._offset = slope, offset

    def score(self, texts: Sequence[str]) -> Floats:
        """Probability of being good, for each text: [D], float64 between 0 and 1. A text's score is the same in any batch."""
        scores = [self._probabilities(_features(some, self._ngram)) for some in _batches(texts)]
        return np.concatenate(scores) if scores else np.zeros(0)

    def _probabilities(self, features: csr_matrix) -> Floats:
        decisions = features @ self._coefficients + self._intercept
        # The other form of the same sigmoid cannot overflow.
        return np.asarray(0.5 * (1 - np.tanh((self._slope * decisions + self._offset) / 2)), dtype=np.float64)


def load(folder: Path) -> Classifier:
    """Read the model of `folder`; InkwellError when there is none."""
    path = folder / FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Classifier(
                int(arrays["ngram"]),
                arrays["coefficients"],
                float(arrays["intercept"]),
                float(arrays["slope"]),
                float(arrays["offset"]),
            )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InkwellError(f"{path} is no quality classifier ({error}): delete it and run tag again.") from error


def _examples(path: Path, role: str, normalise: Callable[[str], str] | None) -> dict[str, None]:
    """The distinct texts of a file in order, cut to what is looked at; copies would sit on both sides of the holdout."""
    from components.corpus.documents import iterate, raw_schema

    if not path.exists():
        raise InkwellError(
            f"{path} does not exist, and the quality classifier needs good and bad examples: add a source of role {role} "
            "to ingest.sources, or remove the sources of roles good and bad."
        )
    texts = ((row["text"] or "")[: 2 * _CHARACTERS] for row in iterate(path, raw_schema(), ["text"]))
    normal = (normalise(text) if normalise else text for text in texts)
    return dict.fromkeys(text[:_CHARACTERS] for text in normal if text.strip())


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text[:_CHARACTERS])
        size += len(batch[-1])
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _features(texts: Sequence[str], ngram: int) -> csr_matrix:
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(1, ngram), n_features=_FEATURES, alternate_sign=False, norm=None
    )
    rows = []
    for some in _batches(texts):
        # Lone surrogates cannot be hashed.
        counted = vectorizer.transform([text.encode("utf-8", "replace").decode("utf-8") for text in some])
        counted.data = np.log1p(counted.data)
        rows.append(normalize(counted, copy=False))
    return rows[0] if len(rows) == 1 else vstack(rows, format="csr")


def _balanced(labels: NDArray[np.int64]) -> Floats:
    """Weights that make both kinds weigh the same, 1 on average."""
    return np.asarray(len(labels) / (2 * np.bincount(labels)[labels]), dtype=np.float64)
