"""Settings: yaml + ``key=value`` overrides -> frozen, closed objects.

An unknown key is refused with the nearest valid one. Fields marked ``identity=False`` say how a run
is carried out (workers, budgets) rather than what it makes; they may change between a start and its
continuation. A relative path is looked up from the working directory; ``~`` is the home folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from raypipe.errors import RequestError, nearest
from raypipe.records import fingerprint
from raypipe.settings.faults import Unfit, explain, in_yaml


def how(default: Any = ..., **kwargs: Any) -> Any:
    """A field that says how a run is carried out; not part of the run's identity."""
    return Field(default, json_schema_extra={"identity": False}, **kwargs)


def later(default: Any, **kwargs: Any) -> Any:
    """A field that is younger than some runs: part of the identity unless it has its default."""
    return Field(default, json_schema_extra={"identity": "unless default"}, **kwargs)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @pydantic.model_validator(mode="before")
    @classmethod
    def _yes_is_no_number(cls, given: Any) -> Any:
        """Yaml reads yes and on as true, which would count as 1: an error budget of 100 %."""
        for name, value in given.items() if isinstance(given, dict) else ():
            info = cls.model_fields.get(name)
            if isinstance(value, bool) and info is not None and _is_number(info.annotation):
                usual = info.default if isinstance(info.default, int | float) else "N"
                raise Unfit(
                    f"{name} takes a number, and yaml reads yes, no, on and off as true and false",
                    f"write the number: {name}={usual}",
                )
        return given


S = TypeVar("S", bound=Settings)


def load(kind: type[S], path: str | Path | None, overrides: list[str] | None = None) -> S:
    """Reads a yaml file, applies ``a.b=value`` overrides and builds the settings.

    Raises:
        RequestError: missing file, bad yaml, unknown key (with the nearest valid one), bad value.
    """
    data: Any = {}
    if path is not None:
        data = read_yaml(expanded(path))
    for item in overrides or []:
        name, sep, text = item.partition("=")
        if not sep:
            raise RequestError(f"'{item}' is not a setting", "write key=value, for example global_batch=64")
        _set(data, name.split("."), _value(text, item), item)
    return build(kind, data, str(path or "command line"))


def build(kind: type[S], data: dict[str, Any], where: str) -> S:
    """Builds settings from plain data; every fault is a RequestError that names the key."""
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as fault:
        raise RequestError(*explain(kind, fault, where)) from None


def identity(settings: Settings) -> str:
    """The fingerprint of what a run makes: all fields but those that only say how."""
    return fingerprint(_identity_of(settings))


def how_fields(kind: type[Settings]) -> set[str]:
    """The names of a kind's fields that are not part of a run's identity."""
    extras = {name: info.json_schema_extra for name, info in kind.model_fields.items()}
    return {n for n, extra in extras.items() if isinstance(extra, dict) and extra.get("identity") is False}


def local(path: str) -> str:
    """Expands ``~``; a path with a protocol (``s3://``) is left alone, others are made absolute.

    Raises:
        RequestError: ``~`` of nobody.
    """
    return path if "://" in path else os.path.abspath(expanded(path))


def expanded(path: str | Path) -> Path:
    """A path of this machine with the home folder in the place of ``~`` or ``~user``.

    Raises:
        RequestError: there is no such user, or nobody says where the home folder is.
    """
    found = os.path.expanduser(path)  # Path's own takes ./~ for ~
    if found.startswith("~"):  # as a name it would be a new folder, called ~, in the working directory
        raise RequestError(
            f"{path}: no home folder is known for the ~ in it",
            "write the whole path, or export HOME=FOLDER; ./~ is a name",
        )
    return Path(found)


def _identity_of(settings: Settings) -> dict[str, Any]:
    out: dict[str, Any] = {}
    left_out = how_fields(type(settings))
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name in left_out or (_is_later(info) and value == info.default):
            continue
        if isinstance(value, Settings):
            value = _identity_of(value)
        elif isinstance(value, list):
            value = [_identity_of(v) if isinstance(v, Settings) else v for v in value]
        out[name] = value
    return out


def _is_number(annotation: Any) -> bool:
    choices = (annotation, *getattr(annotation, "__args__", ()))
    return any(c in (int, float) for c in choices) and bool not in choices


def _is_later(info: Any) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("identity") == "unless default"


class PlainLoader(yaml.SafeLoader):
    """Plain data only; a key that is there twice and an alias (a few make a giant) are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a list or a mapping", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key.value}' is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain data of a settings file.

    Raises:
        RequestError: missing, unreadable, or not a yaml mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)  # noqa: S506 - a safe loader
    except FileNotFoundError:
        raise RequestError(f"no such settings file: {path}", _near_files(path)) from None
    except (OSError, UnicodeDecodeError) as fault:
        said = getattr(fault, "strerror", None) or fault
        raise RequestError(f"cannot read {path}: {said}", "name a file of plain yaml text") from None
    except (yaml.YAMLError, RecursionError, ValueError) as fault:
        line, problem, remedy = in_yaml(fault)
        place = f"{path}, line {line}" if line else str(path)
        raise RequestError(f"{place}: not valid yaml: {problem}", remedy) from None
    if not isinstance(data, dict):
        raise RequestError(f"{path} does not hold settings", "write one 'key: value' a line")
    return data


def _value(text: str, item: str) -> Any:
    try:
        return yaml.load(text, PlainLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as fault:
        remedy = "close what is opened, and quote the whole for the shell: 'name=[a, b]'"
        raise RequestError(f"'{item}': not valid yaml: {in_yaml(fault)[1]}", remedy) from None


def _near_files(path: Path) -> str:
    siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    return nearest(path.name, siblings) if siblings else "give the path of a yaml file"


def _set(data: dict[str, Any], keys: list[str], value: Any, item: str) -> None:
    for key in keys[:-1]:
        if data.get(key) is None:  # not there, or written as null
            data[key] = {}
        data = data[key]
        if not isinstance(data, dict):
            raise RequestError(
                f"'{item}': {key} is not a group of settings", f"{key} is one value: {key}=..."
            )
    data[keys[-1]] = value
