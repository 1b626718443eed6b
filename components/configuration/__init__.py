"""Typed, frozen parameters: `params.yaml` in, one `Configuration` out, every mistake told in one sentence.

`params.yaml` is the only place where values are set; the defaults here fill in what a person left out. Import this
package inside functions: pydantic costs a tenth of a second, which `--help` should not pay.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from components.configuration.clean import Bound, Clean
from components.configuration.conversations import Instruct
from components.configuration.ingest import Ingest, Source
from components.configuration.operations import Notifications, Promotion, Retraining
from components.configuration.outputs import Evaluate, Export, Report, Sampling, Tracking
from components.configuration.strict import Section
from components.configuration.tag import Tag
from components.configuration.tokenizer import Tokenize, Tokenizer
from components.configuration.training import Align, Machine, Pretrain, Sft
from components.configuration.validate import Validate
from components.errors import InkwellError

__all__ = [
    "Align",
    "Bound",
    "Clean",
    "Configuration",
    "Evaluate",
    "Export",
    "Ingest",
    "Instruct",
    "Machine",
    "Notifications",
    "Pretrain",
    "Promotion",
    "Report",
    "Retraining",
    "Sampling",
    "Section",
    "Sft",
    "Source",
    "Tag",
    "Tokenize",
    "Tokenizer",
    "Tracking",
    "Validate",
    "load",
    "parse",
]


class Configuration(Section):
    """All parameters of a pipeline."""

    seed: int = Field(20260101, ge=0, description="seed of everything that is drawn")
    language: str = Field("zh", description="language of the corpus; picks the wording of conversations (zh, ru, en)")
    ingest: Ingest
    tag: Tag = Field(default_factory=Tag)
    clean: Clean = Field(default_factory=Clean)
    validate_: Validate = Field(default_factory=Validate, alias="validate")
    tokenizer: Tokenizer = Field(default_factory=Tokenizer)
    tokenize: Tokenize = Field(default_factory=Tokenize)
    machine: Machine = Field(default_factory=Machine)
    pretrain: Pretrain = Field(default_factory=Pretrain)
    instruct: Instruct = Field(default_factory=Instruct)
    sft: Sft = Field(default_factory=Sft)
    align: Align = Field(default_factory=Align)
    sampling: Sampling = Field(default_factory=Sampling)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    export: Export = Field(default_factory=Export)
    report: Report = Field(default_factory=Report)
    tracking: Tracking = Field(default_factory=Tracking)
    promotion: Promotion = Field(default_factory=Promotion)
    retraining: Retraining = Field(default_factory=Retraining)
    notifications: Notifications = Field(default_factory=Notifications)

    @field_validator("language")
    @classmethod
    def _has_wording(cls, value: str) -> str:
        """Told now, not after an hour of training."""
        known = sorted(path.stem for path in (Path(__file__).parents[1] / "chat" / "wording").glob("*.yaml"))
        if value not in known:
            raise ValueError(
                f"there is wording for conversations in {', '.join(known)}; take one of these or write "
                f"components/chat/wording/{value}.yaml after their pattern"
            )
        return value

    def section(self, name: str) -> Section:
        """The section called `name` in params.yaml."""
        value = getattr(self, "validate_" if name == "validate" else name)
        assert isinstance(value, Section), name
        return value


def load(path: Path, overrides: Sequence[str] = ()) -> Configuration:
    """Read `params.yaml`, apply `section.key=value` overrides (values are YAML) and check everything.

    Raises InkwellError naming the file, the parameter and the mend.
    """
    if not path.exists():
        raise InkwellError(f"{path} does not exist: run in the folder that holds params.yaml or give --params.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InkwellError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InkwellError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise InkwellError(f"{path} holds no parameters: expected `section: {{key: value}}`.")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InkwellError(f"--set {override}: write it as section.key=value.")
        target = values
        *parents, last = key.strip().split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise InkwellError(f"--set {override}: {parent} is a value, not a section.")
        try:
            target[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InkwellError(
                f"--set {override}: the value is not valid YAML ({' '.join(str(error).split())})."
            ) from error
    return parse(values, str(path))


def parse(values: Mapping[str, Any], where: str = "parameters") -> Configuration:
    """Check a nested mapping; raises InkwellError for the first mistake."""
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        raise InkwellError(_explain(error, where)) from None


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known))}."
        return f"{where}: unknown parameter {place!r}; {hint}"
    if first["type"] == "missing":
        return f"{where}: parameter {place!r} is missing."
    given = re.sub(r"//[^/\s]*@", "//...@", repr(first["input"]))  # a login in an address is not for logs
    # a whole list of sources says less than its name; what stands in place of a secret's name may be the secret
    shown = f" = {given}" if len(given) <= 200 and not place.startswith("notifications.") else ""
    return f"{where}: parameter {place!r}{shown} is not allowed: {first['msg']}."


def _fields_at(location: Sequence[int | str]) -> list[str]:
    model: Any = Configuration
    for part in location:
        if isinstance(part, int):
            continue
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                model = field.annotation
                break
        for argument in get_args(model):
            if isinstance(argument, type) and issubclass(argument, BaseModel):
                model = argument
    return [field.alias or name for name, field in model.model_fields.items()]
