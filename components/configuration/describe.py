"""Descriptions of parameters, for `--parameters`, the comments in params.yaml and docs/parameters.md."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from components.configuration import Configuration, Section

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def type_name(annotation: Any) -> str:
    """A type as a user would write it: "number", "a | b", "text or null"."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else type_name(part) for part in get_args(annotation))
    if origin is dict:
        return f"{type_name(get_args(annotation)[1])} by name"
    if origin is list:
        return f"list of {type_name(get_args(annotation)[0])}"
    names: dict[Any, str] = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation) or str(annotation.__name__).lower()


def default_of(name: str, field: FieldInfo, within: Section | None) -> Any:
    """What a parameter is where nobody sets it; `field` may not be required.

    within: the section that stands there by default, which may have other values than its class (`sft.checkpoints`); None
    where there is no such section, because it has parameters that are required.
    """
    return field.get_default(call_default_factory=True) if within is None else getattr(within, name)


def section_by_default(name: str, field: FieldInfo, within: Section | None) -> Section | None:
    """The section of that name that stands within `within` by default, see `default_of`; None where it is required."""
    if within is None and field.is_required():
        return None
    default = default_of(name, field, within)
    assert isinstance(default, Section), name
    return default


def describe(section: str) -> str:
    """One line a parameter of one section: name, type, default, meaning."""
    for name, field in Configuration.model_fields.items():
        model = field.annotation
        if section in (name, field.alias) and isinstance(model, type) and issubclass(model, Section):
            lines = _lines(model, section_by_default(name, field, None), section)
            return f"{(model.__doc__ or '').strip()}\n" + "\n".join(lines)
    raise AssertionError(section)


def _lines(model: type[Section], within: Section | None, prefix: str) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            lines += _lines(inner, section_by_default(name, field, within), f"{prefix}.{name}")
            continue
        default = "required" if field.is_required() else f"default {default_of(name, field, within)!r}"
        lines.append(f"  {prefix}.{name} ({type_name(field.annotation)}, {default}): {field.description}")
        for part in get_args(field.annotation):
            if isinstance(part, type) and issubclass(part, Section):
                lines += _lines(part, None, f"{prefix}.{name}[]")
    return lines
