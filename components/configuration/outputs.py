"""Parameters of sampling, `evaluate`, `export` and `report`."""

import re
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from components.configuration.strict import Section


class Sampling(Section):
    """How text is drawn from a model, wherever the pipeline or a user does it."""

    temperature: float = Field(0.7, ge=0, description="0: greedy; higher: more varied")
    top_k: int = Field(0, ge=0, description="draw from the k likeliest tokens; 0: all")
    top_p: float = Field(
        0.95, gt=0, le=1, description="draw from the likeliest tokens that hold this share of probability"
    )
    repetition_penalty: float = Field(1.0, gt=0, description="above 1: tokens that were seen become less likely")
    maximum_tokens: int = Field(200, ge=1, description="longest continuation")


class Evaluate(Section):
    """Held-out evaluation through lighteval and free sampling."""

    documents: int = Field(400, ge=1, description="held-out documents for bits per character and next-line choice")
    characters: int = Field(
        300_000, ge=1, description="held-out characters scored at most; the document that reaches them is cut there"
    )
    choices: int = Field(4, ge=2, description="answers of a next-line question, the right one among them")
    titles: int = Field(
        500, ge=1, description="held-out titles for which a poem in five-character lines is asked, one attempt each"
    )
    other_titles: int = Field(
        100,
        ge=1,
        description="held-out titles for each other question of form (seven-character lines, number of lines)",
    )
    verbatim_characters: int = Field(
        20,
        ge=5,
        description="generated text counts as copied where this many characters in a row stand in the training split",
    )


class Export(Section):
    """Files for other programs."""

    model: Literal["base", "sft", "aligned"] = Field("aligned", description="model that is exported")
    formats: list[Literal["f16", "q8_0", "q4_k_m"]] = Field(
        ["f16", "q8_0", "q4_k_m"],
        description="GGUF files written and compared; empty: only the Hugging Face folder",
    )
    comparison_documents: int = Field(
        40, ge=1, description="held-out documents on which each file is compared with the torch model"
    )
    comparison_prompts: int = Field(10, ge=1, description="prompts whose greedy text is compared")
    comparison_tokens: int = Field(
        48, ge=1, description="tokens of each greedy text (at most half the model's context)"
    )


class Report(Section):
    """The report card."""

    title: str = Field("Inkwell report card", description="heading of the page")
    samples: int = Field(6, ge=1, description="generated texts shown for each model")


class Tracking(Section):
    """MLflow."""

    enabled: bool = Field(True, description="false: nothing is logged")
    uri: str | None = Field(None, description="tracking server; null: SQLite in .inkwell/mlflow.db")
    experiment: str = Field("inkwell", description="MLflow experiment")

    @field_validator("uri")
    @classmethod
    def _without_login(cls, value: str | None) -> str | None:
        if value is not None and re.match(r"[^/]*//[^/?#]*:[^/?#]*@", value):
            raise PydanticCustomError(
                "login",
                "a password would be recorded with the parameters; give it by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a database's by PGPASSWORD",
            )
        return value
