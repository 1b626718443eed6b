"""Parameters of `clean`: which of the tagged documents stay, in what proportion, and which are held out."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from components.configuration.strict import Section


class Bound(Section):
    """Bounds of one rule; what is left out stays as the policy has it."""

    minimum: float | None = Field(None, description="smaller values are dropped")
    maximum: float | None = Field(None, description="larger values are dropped")
    off: bool = Field(False, description="do not ask this rule")

    @model_validator(mode="before")
    @classmethod
    def _off_is_a_word(cls, values: object) -> object:
        """YAML reads a bare `off` as false, also where it is a key."""
        if isinstance(values, dict) and False in values:
            return {("off" if key is False else key): value for key, value in values.items()}
        return values


class Mixture(Section):
    """In what proportion sources are trained on."""

    weights: dict[str, float] = Field(
        default_factory=dict, description="source name to weight; a source that is not named has weight 1"
    )
    by: Literal["repetition", "share"] = Field(
        "repetition",
        description="repetition: each document is read `weight` times an epoch; share: weights are shares of all characters",
    )
    maximum_repetition: float = Field(
        4, gt=0, description="share: a source is not read more often than this an epoch, however small it is"
    )

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not 0 <= weight <= 1000:
                raise ValueError(f"the weight of {name!r} must lie between 0 and 1000")
        return weights


class Clean(Section):
    """Rules, de-duplication, quotas, the mixture and the split."""

    policy: str = Field("base", description="the rules: a file of components/corpus/policies, without .yaml")
    rules: dict[str, Bound] = Field(
        default_factory=dict, description="changes to the policy's bounds, by the rule's name, for all languages"
    )
    languages: list[str] = Field(
        default_factory=list, description="keep documents of these languages only (zh, ru, en ...); empty: any"
    )
    template: str = Field(
        "{text}",
        description="what is trained on, from {title}, {author} and {text}; a missing field and the line end after it vanish",
    )
    exact_duplicates: bool = Field(
        True, description="drop documents whose letters and digits equal another's, letter case aside"
    )
    near_duplicates: bool = Field(
        True,
        description="drop near duplicates (MinHash, verified by exact Jaccard similarity); where false, they still stay on one side of the split",
    )
    jaccard: float = Field(0.5, gt=0, le=1, description="similarity from which two documents are near duplicates")
    keep: Literal["longest", "first", "quality", "perplexity"] = Field(
        "longest",
        description="which document of a cluster stays: the longest, the first, the one of highest quality score or of fewest bits per character; the first where substrings are cut",
    )
    substrings: Literal["keep", "cut"] = Field(
        "keep",
        description="cut: take out passages that an earlier document holds (tag.duplicates.substring_characters), also where that document is dropped",
    )
    contaminated: Literal["drop", "keep"] = Field(
        "drop", description="documents that share an n-gram with an evaluation set"
    )
    topic_quota: float = Field(
        1.0,
        gt=0,
        le=1,
        description="largest share of the kept characters that one topic may have; its least typical documents go first",
    )
    denied: list[str] = Field(
        default_factory=list,
        description="ids of documents that no model may see; `python -m flows.lineage --removal` writes the list for a request",
    )
    topics_dropped: list[int] = Field(
        default_factory=list, description="topics (numbers of the map of the corpus) that are dropped"
    )
    keep_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the documents dropped by a rule that is kept all the same, drawn by the seed: a model should have seen some noise",
    )
    mixture: Mixture = Field(default_factory=Mixture, description="proportions of the sources")
    review_sample: int = Field(
        20,
        ge=0,
        description="documents a rule drawn for reading by a person, the nearest to its bound on either side first",
    )
    validation_fraction: float = Field(
        0.05, gt=0, lt=1, description="share of duplicate clusters held out for validation"
    )
    kneser_ney_order: int = Field(
        5, ge=1, le=8, description="order of the n-gram model whose bits per character are the bar to beat"
    )
    kneser_ney_characters: int | None = Field(
        20_000_000,
        ge=1,
        description="training characters that this model reads, spread evenly over the documents (about 0.08 GiB of memory a million), and held-out ones that it is scored on; null: all",
    )

    @field_validator("policy")
    @classmethod
    def _is_a_name(cls, policy: str) -> str:
        if not re.fullmatch(r"[\w-]+", policy):
            raise ValueError("it is the name of a file in components/corpus/policies, without folder and .yaml")
        return policy

    @field_validator("template")
    @classmethod
    def _known_fields(cls, template: str) -> str:
        unknown = set(re.findall(r"\{(\w+)\}", template)) - {"title", "author", "text"}
        if unknown:
            raise ValueError(f"{{{sorted(unknown)[0]}}} is no field; use {{title}}, {{author}} and {{text}}")
        if "{text}" not in template:
            raise ValueError("it must contain {text}")
        return template
