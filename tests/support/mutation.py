"""Bugs on purpose: a module's functions compiled anew from a text with something else in it, and put back."""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def mutated(module: str, *changes: tuple[str, str]) -> Iterator[None]:
    """Inside, the module behaves as if ``new`` stood where ``old`` does; each ``old`` is there exactly once.

    Only the code of functions is exchanged, in place, so that it holds wherever they were imported.
    """
    real = importlib.import_module(module)
    text = Path(real.__file__ or "").read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{text.count(old)} times in {module}: {old!r}"
        text = text.replace(old, new)
    # The module's own globals are copied, for its functions must not be replaced but get other code.
    namespace = types.ModuleType(module)
    namespace.__file__ = real.__file__
    import sys

    sys.modules[module] = namespace  # dataclasses look there
    try:
        exec(compile(text, str(real.__file__), "exec"), namespace.__dict__)  # noqa: S102 - our own source
    finally:
        sys.modules[module] = real
    wrong = dict(_functions(vars(namespace), module))
    kept: list[tuple[types.FunctionType, types.CodeType]] = []
    for name, function in _functions(vars(real), module):
        if function.__code__ != wrong[name].__code__:
            kept.append((function, function.__code__))
            function.__code__ = wrong[name].__code__
    assert kept, "nothing is different"
    try:
        yield
    finally:
        for function, code in kept:
            function.__code__ = code


def _functions(space: Any, module: str, prefix: str = "") -> Iterator[tuple[str, types.FunctionType]]:
    for name, value in list(space.items()):
        inner = getattr(value, "__wrapped__", getattr(value, "__func__", value))
        if isinstance(inner, types.FunctionType) and inner.__module__ == module:
            yield prefix + name, inner
        elif isinstance(value, type) and value.__module__ == module and not prefix:
            yield from _functions(vars(value), module, f"{name}.")
