"""The size of what is written: files, functions, and what lies at the top of the repository."""

from __future__ import annotations

import ast
import subprocess

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


def test_files_and_functions_are_short() -> None:
    found = []
    for file in SOURCES:
        text, name = file.read_text(), file.relative_to(ROOT).as_posix()
        lines = len(text.splitlines())
        found += [f"{name}: {lines} lines"] if lines > FILE_LINES else []
        found += [f"{name}: a name that says nothing"] if file.stem in NAMELESS else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                found += [f"{name}: {node.name}, {length} lines"] if length > FUNCTION_LINES else []
    assert found == []


def test_nothing_lies_at_the_top_that_does_not_belong_there() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} <= TOP
