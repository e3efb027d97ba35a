"""What is wrong with settings, in words for the person who wrote them, and the next step."""

from __future__ import annotations

import re
from typing import Any

import pydantic
import yaml

from raypipe.errors import nearest

PAGES = {  # where every setting is explained
    "DatasetSettings": "docs/prepare.md",
    "StageSettings": "docs/train.md",
    "TuneSettings": "docs/tune.md",
    "EvaluateSettings": "docs/evaluate.md",
    "JudgeSettings": "docs/judge.md",
}
_OF_VERB = {  # settings that only one verb has
    **dict.fromkeys(("start", "mixture", "rates", "global_batch"), "train"),
    **dict.fromkeys(("annotations", "data_root", "media_per_shard"), "prepare"),
    **dict.fromkeys(("benchmarks", "eval_root", "actors"), "evaluate"),
    **dict.fromkeys(("space", "trials"), "tune"),
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, such as [a, b]",
    "tuple": "a list, such as [0.9, 0.999]",
    "dict": "a group of settings",
    "model": "a group of settings",
}

_CHOICE = re.compile(r"[\[(]|^literal")


class Unfit(ValueError):
    """A value that its own class refuses, with the next step."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def explain(kind: type[pydantic.BaseModel], fault: pydantic.ValidationError, where: str) -> tuple[str, str]:
    """The first fault as a message and a remedy; names that are unknown come before values that are wrong."""
    faults = fault.errors()
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    loc = _written(first)
    place = ".".join(str(p) for p in loc)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown setting '{place}'", _unknown(kind, loc, where)
    if first["type"] == "missing":
        return f"{where}: setting '{place}' is missing", f"add {place}=... or a line '{place}: ...'"
    got = "" if isinstance(first.get("input"), dict) else f" (got {first.get('input')!r})"
    page = f"see {PAGES[kind.__name__]}" if kind.__name__ in PAGES else "see the docs"
    if first["type"] == "value_error":
        error = first.get("ctx", {}).get("error")
        of = f"setting '{place}': " if place else ""
        remedy = error.remedy if isinstance(error, Unfit) else f"{page}, which explains '{place or 'it'}'"
        return f"{where}: {of}{error}{got}", remedy
    wanted, example = _wanted(first, place)
    remedy = example or f"{page}, which explains '{place}'"
    return f"{where}: setting '{place}' must be {wanted}{got}", remedy


def _written(fault: Any) -> tuple[int | str, ...]:
    """The place of a fault as its writer knows it: without pydantic's names of a union's choices.

    A choice is never the first step; an unknown name, the last step, is the writer's own whatever is in it.
    """
    steps = fault["loc"]
    own = {0, len(steps) - 1} if fault["type"] == "extra_forbidden" else {0}
    return tuple(p for i, p in enumerate(steps) if i in own or not _CHOICE.search(str(p)))


def in_yaml(fault: Exception) -> tuple[int | None, str, str]:
    """What is wrong with a yaml text: the line, counted from 1, what, and what to do."""
    if not isinstance(fault, yaml.MarkedYAMLError):
        said = getattr(fault, "reason", None) or (" ".join(str(fault).split()) or type(fault).__name__)
        return None, said[:200], "write plain text, one 'key: value' a line"
    mark = fault.problem_mark or fault.context_mark
    line = mark.line + 1 if mark else None
    problem = " ".join(str(fault.problem or fault.context).split())[:200]
    if "'\\t'" in problem:
        return line, "a tab", "indent with spaces"
    if "constructor for the tag" in problem:
        tag = problem.partition("'")[2].rstrip("'").replace("tag:yaml.org,2002:", "!!")
        return line, f"the tag {tag} is not taken", "settings are plain data: leave the tag out"
    if "is there twice" in problem:
        return line, problem, "leave one of the two"
    if "aliases" in problem:
        return line, problem, "write the value out (of a cluster's file: it goes behind cluster=)"
    return line, problem, "one 'key: value' a line, a group's members indented alike; quote a value with ': '"


def names_of(kind: type[pydantic.BaseModel], prefix: str = "") -> list[str]:
    """Every setting of a class by dotted name; of a group its members, too."""
    out: list[str] = []
    for name, info in kind.model_fields.items():
        out.append(prefix + name)
        choices = [info.annotation, *getattr(info.annotation, "__args__", ())]
        for group in (c for c in choices if isinstance(c, type) and issubclass(c, pydantic.BaseModel)):
            if info.annotation is group or type(None) in choices:  # not the members of a list
                out += names_of(group, f"{prefix}{name}.")
    return out


def _unknown(kind: type[pydantic.BaseModel], loc: tuple[Any, ...], where: str) -> str:
    name = str(loc[-1])
    if name == "cluster_name":
        return f"it is a cluster's file: raypipe cluster check {where}"
    if len(loc) == 1 and name in _OF_VERB and where.endswith((".yaml", ".yml")):
        return f"these look like settings of {_OF_VERB[name]}: raypipe {_OF_VERB[name]} {where}"
    inner = [n for n in names_of(kind) if n.rpartition(".")[2] == name]
    if inner:
        return f"did you mean '{inner[0]}'?"
    return nearest(name, _fields_at(kind, loc[:-1]))


def _fields_at(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    for step in loc:
        if not isinstance(step, str) or step not in getattr(kind, "model_fields", {}):
            continue
        kind = kind.model_fields[step].annotation
        for choice in getattr(kind, "__args__", ()):
            if isinstance(choice, type) and issubclass(choice, pydantic.BaseModel):
                kind = choice
    return list(getattr(kind, "model_fields", {}))


def _wanted(fault: Any, place: str) -> tuple[str, str]:
    """What the value of the setting ``place`` must be, and an example where there is one."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        bound = context[name]
        near = bound if kind.endswith("equal") else ""
        return f"{words} {bound:g}", f"{place}={near:g}, for example" if near != "" else ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'|(\d+)", str(context.get("expected")))
        names = [word or number for word, number in choices]
        return f"one of {', '.join(names)}", nearest(str(fault.get("input")), names)
    if kind.endswith("too_short"):
        return f"a list of at least {context.get('min_length', 1)}", f"name them, such as {place}=[a,b]"
    family = kind.partition("_")[0]
    if family in _KINDS:
        example = {"int": "8", "float": "0.01", "bool": "true"}.get(family)
        return _KINDS[family], f"{place}={example}, for example" if example else ""
    return fault["msg"][:1].lower() + fault["msg"][1:], ""
