"""`params.yaml` from the groups in conf/: composed by Hydra, checked, and written with every parameter explained.

    python -m flows.parameters corpus=tang size=smoke pretrain.steps=100

Groups (`corpus`, `size`, ...) pick a file of conf/<group>/, or any YAML file by its path. A YAML file by itself goes over them.
Everything else is `section.key=value` with a YAML value. A file needs no `# @package` line: its keys are those of params.yaml.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from components.errors import InkwellError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from components.configuration import Configuration, Section

ROOT = Path(__file__).resolve().parents[1]
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def groups(conf: Path) -> dict[str, list[str]]:
    """The groups of a conf folder and the names in each."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(conf.iterdir())
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def compose(conf: Path, overrides: Sequence[str] = ()) -> Configuration:
    """The checked composition of `conf` with `overrides`; raises InkwellError naming what to change."""
    from components.configuration import parse

    return parse(compose_values(conf, overrides), f"{conf.name}/")


def compose_values(conf: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The unchecked composition: what the files of conf and the overrides say, without defaults of the code."""
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not (conf / "config.yaml").exists():
        raise InkwellError(f"{conf} holds no config.yaml: run in the folder of the project or give --conf.")
    known = groups(conf)
    chosen: list[str] = []
    values: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        copied = Path(name) / "conf"
        shutil.copytree(conf, copied)
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals and _is_yaml(override):
                values.append(("", override))
                continue
            if not equals or not key:
                raise InkwellError(
                    f"{override}: write it as group=name or section.key=value, or name a YAML file of parameters."
                )
            if key not in known:
                values.append((key, value))
                continue
            if _is_yaml(value) and Path(value).exists():
                shutil.copyfile(value, copied / key / f"{Path(value).stem}.yaml")
                value = Path(value).stem
            elif value not in known[key]:
                raise InkwellError(
                    f"{override}: there is no {key} {value!r}; known are {', '.join(known[key])}, or give the path of a YAML file."
                )
            chosen.append(f"{key}={value}")
        for file in copied.glob("*/*.yaml"):
            _put_at_the_top(file, conf / file.relative_to(copied))
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(config_dir=str(copied)):
                composed = hydra_compose("config", overrides=chosen)
            OmegaConf.set_struct(composed, False)
            for key, value in values:
                if key:
                    OmegaConf.update(composed, key, yaml.safe_load(value), merge=False, force_add=True)
                else:
                    composed.merge_with(_read(Path(value)))
            container = OmegaConf.to_container(composed, resolve=True)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, KeyError, IndexError, ValueError) as error:
            message = " ".join(str(error).split()).replace(str(copied), str(conf))
            raise InkwellError(f"{conf.name}/ does not compose: {message}.") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _is_yaml(name: str) -> bool:
    return Path(name).suffix in (".yaml", ".yml")


def _read(file: Path) -> dict[str, Any]:
    """What a file of parameters says; InkwellError naming it where it cannot be read."""
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InkwellError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InkwellError(f"{file} holds no parameters: write `section: {{key: value}}`, as in params.yaml.")
    return {str(key): value for key, value in found.items()}


def _put_at_the_top(file: Path, shown: Path) -> None:
    """Hydra would nest a group's file under the group's name; ours speak of params.yaml's own sections."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InkwellError(f"{shown} is no UTF-8 text: save it as UTF-8.") from error
    if "@package" not in text:
        file.write_text(f"# @package _global_\n{text}", encoding="utf-8")


def render(configuration: Configuration, command: str) -> str:
    """A complete params.yaml: every value explicit, every parameter explained in a comment."""
    from components.configuration import Section

    lines = [
        "# Every parameter of the pipeline; a change re-runs the steps that depend on it, and no others.",
        f"# Written by `{command}`.",
        "",
    ]
    for name, field in type(configuration).model_fields.items():
        value = getattr(configuration, name)
        if isinstance(value, Section):
            lines += [
                "",
                f"# {(type(value).__doc__ or '').strip()}",
                f"{field.alias or name}:",
                *_section_lines(value, "  "),
            ]
        else:
            lines += _value_lines(name, field, value, "")
    return "\n".join(lines) + "\n"


def _section_lines(section: Section, indent: str, explained: bool = True) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        lines += _value_lines(field.alias or name, field, getattr(section, name), indent, explained)
    return lines


def _value_lines(name: str, field: FieldInfo, value: Any, indent: str, explained: bool = True) -> list[str]:
    from components.configuration import Section

    lines = [f"{indent}# {field.description} ({_type(field)})"] if explained else []
    if isinstance(value, list) and value and all(isinstance(item, Section) for item in value):
        lines.append(f"{indent}{name}:")
        for number, item in enumerate(value):
            inner = _section_lines(item, indent + "    ", explained and number == 0)
            lines += [f"{indent}  -", *inner]
        return lines
    if isinstance(value, Section):
        return [*lines, f"{indent}{name}:", *_section_lines(value, indent + "  ", explained)]
    if isinstance(value, dict) and any(isinstance(item, Section) for item in value.values()):
        # What was left out of such an item says "as it was", which no value could.
        value = {key: item.model_dump(mode="json", exclude_unset=True) for key, item in value.items()}
    return [*lines, f"{indent}{name}: {_scalar(value)}"]


def _scalar(value: Any) -> str:
    """A value on one line, as YAML 1.1 and 1.2 both read it."""
    import json

    import yaml

    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    flow = isinstance(value, list | dict)
    written: str = yaml.safe_dump(value, allow_unicode=True, default_flow_style=flow, width=100_000, sort_keys=False)
    return written.removesuffix("...\n").strip()


def _type(field: FieldInfo) -> str:
    from components.configuration.describe import type_name

    bounds = [
        f"{words} {getattr(mark, sign)}"
        for mark in field.metadata
        for sign, words in _BOUNDS.items()
        if hasattr(mark, sign)
    ]
    return ", ".join([type_name(field.annotation), *bounds])


def document(conf: Path) -> str:
    """`docs/parameters.md`: a table a section, with the presets of conf/ beside the defaults."""
    import yaml

    from components.configuration import Configuration
    from components.configuration.describe import section_by_default

    presets: dict[str, Any] = {}
    lines = [
        "# Parameters",
        "",
        "Written by `python -m flows.parameters --document docs/parameters.md`; a test holds it to the code.",
        "",
        "`params.yaml` holds every parameter with its value; edit it there, or compose a new one from the groups of `conf/`:",
        "",
        "    python -m flows.parameters corpus=tang size=smoke pretrain.steps=100",
        "",
        "`python -m components.<step> --parameters` shows a step's own part; `--set section.key=value` changes one for one run by hand.",
        "An unknown name, a wrong type or a value out of range ends in one sentence before any work starts.",
        "",
        "## Groups",
        "",
        "| group | name | what it is |",
        "|---|---|---|",
    ]
    for group, names in groups(conf).items():
        for name in names:
            text = (conf / group / f"{name}.yaml").read_text(encoding="utf-8")
            presets[name] = yaml.safe_load(text) or {}
            lines.append(f"| {group} | `{name}` | {_cell(_opening(text))} |")
    single = {name: field for name, field in Configuration.model_fields.items() if not _model(field)}
    lines += ["", "## At the top", "", *_table(single, None, [], presets)]
    for name, field in Configuration.model_fields.items():
        model = _model(field)
        if not model:
            continue
        title = field.alias or name
        default = section_by_default(name, field, None)
        lines += [
            "",
            f"## {title}",
            "",
            (model.__doc__ or "").strip(),
            "",
            *_table(model.model_fields, default, [title], presets),
        ]
        lines += _parts(title, model, default, presets)
    return "\n".join(lines) + "\n"


def _opening(text: str) -> str:
    """The sentences that begin on the first line of a preset's comment, each to its end."""
    lines = [line for line in text.splitlines() if "@package" not in line]
    comment = [line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    if not comment:
        return ""
    whole = " ".join(comment)
    end = re.compile(r"\.(?=\s|$)").search(whole, len(comment[0]) - 1)
    return whole[: end.end()] if end else whole


def _parts(title: str, model: type[Section], default: Section | None, presets: Mapping[str, Any]) -> list[str]:
    """Tables of the sections within a section; default: that section where nobody sets anything."""
    from components.configuration import Section
    from components.configuration.describe import section_by_default

    lines: list[str] = []
    for name, field in model.model_fields.items():
        inner = _model(field)
        if inner is not None:
            path, within = [*title.split("."), name], section_by_default(name, field, default)
            lines += ["", f"`{title}.{name}`: {(inner.__doc__ or '').strip()}", ""]
            lines += _table(inner.model_fields, within, path, presets)
            lines += _parts(f"{title}.{name}", inner, within, presets)
        for part in get_args(field.annotation):
            if isinstance(part, type) and issubclass(part, Section):
                lines += ["", f"Each of `{title}.{name}`:", "", *_table(part.model_fields, None, None, presets)]
    return lines


def _model(field: FieldInfo) -> type[Section] | None:
    from components.configuration import Section

    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _table(
    fields: Mapping[str, FieldInfo], within: Section | None, path: Sequence[str] | None, presets: Mapping[str, Any]
) -> list[str]:
    """A row a parameter; within: the section that stands there by default (`default_of`). path: None for those of a list."""
    from components.configuration.describe import default_of

    lines = ["| parameter | type | default | presets | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        shown = field.alias or name
        if path is not None and _model(field) is not None:
            continue  # it has a table of its own
        default = "required" if field.is_required() else _code(default_of(name, field, within))
        found = []
        for preset, values in presets.items() if path is not None else ():
            for part in [*(path or []), shown]:
                values = values.get(part) if isinstance(values, Mapping) else None
            if values is not None:
                found.append(f"{preset}: {'see the file' if _nested(values) else _code(values)}")
        full = ".".join([*(path or []), shown])
        lines.append(
            f"| `{full}` | {_cell(_type(field))} | {default} | {', '.join(found)} | {_cell(field.description or '')} |"
        )
    return lines


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(item, Mapping) for item in value))


def _code(value: Any) -> str:
    import json

    return f"`{_cell(json.dumps(value, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.parameters", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="group=name | section.key=value | FILE.yaml",
        help="for instance corpus=tang size=laptop pretrain.steps=100",
    )
    parser.add_argument(
        "--conf", type=Path, default=ROOT / "conf", help="folder of the groups (default: conf/ of the project)"
    )
    parser.add_argument(
        "--output", type=Path, help="where the parameters go (default: params.yaml, unless --document is given)"
    )
    parser.add_argument("--document", type=Path, help="write the table of all parameters (docs/parameters.md)")
    arguments = parser.parse_intermixed_args(argv)
    try:
        from components.atomic import atomic_file

        if arguments.document:
            with atomic_file(arguments.document) as temporary:
                temporary.write_text(document(arguments.conf), encoding="utf-8")
        output = arguments.output or (None if arguments.document else Path("params.yaml"))
        if output:
            text = render(compose(arguments.conf, arguments.overrides), command_line(arguments.overrides))
            with atomic_file(output) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(f"{output} is written; `dvc repro` runs what the changes touch.")
    except InkwellError as error:
        print(f"parameters: {error}", file=sys.stderr)
        return 2
    return 0


def command_line(overrides: Sequence[str]) -> str:
    """The command that composes the same parameters again, on one line."""
    import shlex

    return " ".join(["python -m flows.parameters", *(shlex.quote(override) for override in overrides)]).replace(
        "\n", " "
    )


if __name__ == "__main__":
    sys.exit(main())
