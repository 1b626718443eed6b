"""Parameters of what surrounds the pipeline: promotion, retraining and notifications. Only flows read them, no step does."""

import re
from typing import Literal

from pydantic import Field, field_validator

from components.configuration.strict import Section

_REGRESSIONS = {"bits_per_char": 0.05, "next_line": 0.05, "title_overlap": 0.02, "form": 0.05, "line_count": 0.1}


class Promotion(Section):
    """When a challenger takes the champion's place (docs/promotion.md); read by flows only, re-runs no step."""

    registered_model: str = Field("inkwell", min_length=1, description="name in MLflow's registry")
    error_rate: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="chance that a challenger is promoted that is better at no task, over all tasks together (Holm)",
    )
    resamples: int = Field(10_000, ge=1_000, description="resamples of the paired bootstrap")
    minimum_documents: int = Field(
        30, ge=10, description="a task is judged only where both models answered about so many of the same documents"
    )
    documents: int = Field(
        400, ge=10, description="documents held out by both models on which their bits per character are compared"
    )
    regressions: dict[str, float] = Field(
        default_factory=lambda: dict(_REGRESSIONS),
        description="how much worse a promoted model may be at a task: bits per character, shares for all others",
    )
    maximum_growth: float = Field(
        1.5, gt=0, description="the challenger's largest file may be so many times the champion's"
    )
    maximum_bytes: int | None = Field(None, ge=1, description="largest exported file of any model; null: no bound")
    minimum_speed: float = Field(
        0.7,
        ge=0,
        description="tokens per second that the challenger has to reach, as a share of the champion's; both are measured in turn here; 0: not asked",
    )

    @field_validator("registered_model")
    @classmethod
    def _fit_for_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w .-]*", value):
            raise ValueError(
                "a name has letters, digits, spaces, '.', '-' and '_' only, and begins with a letter or digit"
            )
        return value

    @field_validator("regressions")
    @classmethod
    def _known_tasks(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(value.keys() - _REGRESSIONS.keys())
        if unknown:
            raise ValueError(f"there is no task {unknown[0]!r}; known are {', '.join(_REGRESSIONS)}")
        if any(bound < 0 for bound in value.values()):
            raise ValueError("a bound is how much worse a model may be, at least 0")
        return {**_REGRESSIONS, **value}


class Retraining(Section):
    """When a scheduled run trains a new challenger; read by flows only, re-runs no step."""

    when: Literal["changed", "drifted", "always"] = Field(
        "changed",
        description="changed: the corpus has another hash than the champion's; drifted: it lies further away than validate.drift allows; always: whatever is out of date",
    )


class Notifications(Section):
    """Who hears of runs and decisions. Addresses that are secrets are named here, never written: environment variable or Prefect block."""

    events: list[Literal["promoted", "kept", "failed", "rolled_back"]] = Field(
        ["promoted", "failed", "rolled_back"], description="what is told"
    )
    slack: str | None = Field(
        None,
        description="where Slack's webhook address is: env:NAME of a variable, or block:NAME of a Slack Webhook block",
    )
    webhook: str | None = Field(
        None,
        description="where the address is that gets a JSON body by POST: env:NAME of a variable, or block:NAME of a Webhook block",
    )
    smtp: str | None = Field(
        None,
        description="where the mail server is: env:NAME of a variable or block:NAME of a Secret block that holds smtp[s]://user:password@host:port",
    )
    mail_to: list[str] = Field(default_factory=list, description="addresses that get mail")
    mail_from: str = Field("inkwell@localhost", description="sender of mail")
    timeout_seconds: float = Field(10.0, gt=0, description="patience with each of them")

    @field_validator("slack", "webhook", "smtp")
    @classmethod
    def _named_only(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"env:[A-Za-z_]\w*|block:[a-z0-9][a-z0-9-]*", value):
            # what was given may be the secret itself
            raise ValueError("write env:NAME or block:name; the address itself does not belong in parameters")
        return value
