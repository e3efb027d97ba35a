"""The size of what is written: files, functions, and what lies at the top of the repository."""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

FILE_LINES, FUNCTION_LINES = 400, 60
NAMELESS = ("utils", "util", "common", "helpers", "misc")
TOP = {
    *(".ci", ".gitignore", ".rayignore", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
    *("constraints.txt", "cluster.yaml", "cluster", "datasets", "docs", "jobs", "raypipe", "bench", "tests"),
}
SOURCES = sorted(
    f for top in ("raypipe", "jobs", "bench", "tests", "cluster") for f in (ROOT / top).rglob("*.py")
)


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def test_files_and_functions_are_short() -> None:
    found = []
    for file in SOURCES:
        name = file.relative_to(ROOT).as_posix()
        lines = len(file.read_text(encoding="utf-8").splitlines())
        found += [f"{name}: {lines} lines"] if lines > FILE_LINES else []
        found += [f"{name}: a name that says nothing"] if file.stem in NAMELESS else []
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                found += [f"{name}: {node.name}, {length} lines"] if length > FUNCTION_LINES else []
    assert found == []


def test_no_text_is_read_in_the_encoding_of_the_locale() -> None:
    """A yaml with a name in Chinese is the same on a machine whose locale is ASCII."""
    found = []
    for file in (f for f in SOURCES if f.relative_to(ROOT).parts[0] in ("raypipe", "jobs")):
        for node in ast.walk(parsed(file)):
            if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
                continue
            name = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
            mode = [
                a.value for a in node.args[1:] if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
            text = name in ("open", "os.fdopen") and not any("b" in m for m in mode)
            if text or name.endswith((".read_text", ".write_text")):
                found.append(f"{file.relative_to(ROOT).as_posix()}:{node.lineno}: {name}")
    assert found == []


def test_nothing_lies_at_the_top_that_does_not_belong_there() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} <= TOP
