"""docs/benchmarks.md: its table is the registry's, and the benchmark it adds works as it stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raypipe.benchmarks
from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade, make_question
from raypipe.cli import main
from raypipe.errors import RequestError
from raypipe.report.listing import benchmark_rows
from tests.support.case import Case
from tests.support.eval_roots import write_lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/benchmarks.md").read_text()
FILE, CASE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ALL = [
    *("msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa", "vqav2", "gqa", "vizwiz", "scienceqa", "textvqa"),
    *("pope", "mmbench", "mme", "seed_bench", "llava_bench", "mm_vet", "video_chatgpt"),
]
ROWS = {row["name"]: row for row in benchmark_rows()}


def tables() -> list[dict[str, list[str]]]:
    """The rows of each table by the name in their first cell."""
    out: list[dict[str, list[str]]] = []
    for line in PAGE.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")] if line.startswith("| ") else []
        if cells and cells[0] == "name":
            out.append({})
        elif cells:
            out[-1][cells[0].strip("`")] = cells
    return out


def test_both_tables_have_all_benchmarks():
    listed, where = tables()
    assert list(listed) == ALL
    assert list(where) == ALL
    assert set(ROWS) == set(ALL)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table_is_what_the_registry_says(name):
    listed, where = tables()
    row = ROWS[name]
    _, _, scorer, metric, published, upload = listed[name]
    assert scorer.split(";")[0] == row["graded_by"]
    assert metric == row["primary"]
    score = row["published"].get(row["primary"])
    assert published == ("" if score is None else f"{score:.1f}")
    assert upload == ("yes" if row["upload"] else "")
    assert where[name][1].split("`")[1] == row["folder"]
    assert row["size"] is None or f"{row['size']:,}" in listed[name][1]
    named = re.findall(r"`([\w*.-]+)`", listed[name][1])
    assert set(named) <= set(row["splits"])


@pytest.fixture
def added(tmp_path, monkeypatch) -> Iterator[Case]:
    """The page's benchmark as a file among the others, and its case."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/how_many.py").write_text(FILE)
    places = [*raypipe.benchmarks.__path__, str(tmp_path / "package")]
    monkeypatch.setattr(raypipe.benchmarks, "__path__", places)
    monkeypatch.delitem(sys.modules, "raypipe.benchmarks.how_many", raising=False)
    scope: dict[str, Any] = {"__name__": "docs"}
    exec(compile(CASE, "docs/benchmarks.md", "exec"), scope)  # noqa: S102
    yield scope["CASES"]["how_many"]
    sys.modules.pop("raypipe.benchmarks.how_many", None)
    vars(raypipe.benchmarks).pop("how_many", None)


def test_the_file_is_short():
    assert len(FILE.splitlines()) < 60
    assert max(len(line) for line in FILE.splitlines()) <= 110


def test_the_added_benchmark_passes_the_contract_test(tmp_path):
    """The page is followed in a copy of the project: two files, and nothing else is touched."""
    for place in ("raypipe", "tests/support", "tests/contracts"):
        shutil.copytree(ROOT / place, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests/__init__.py").touch()
    (tmp_path / "raypipe/benchmarks/how_many.py").write_text(FILE)
    (tmp_path / "tests/support/eval_root_how_many.py").write_text(CASE)
    argv = ["-q", "-p", "no:cacheprovider", "-k", "how_many", "tests/contracts/test_benchmarks.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *argv],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b1\d passed", done.stdout), done.stdout


def test_the_added_benchmark_grades_and_names_damage(added, tmp_path):
    benchmark = benchmarks.load("how_many")
    with pytest.raises(RequestError, match="no such file"):
        benchmark.questions(tmp_path)
    added.write(tmp_path, "how_many")
    questions = benchmark.questions(tmp_path)
    assert (questions[0].prompt, questions[0].reference) == (added.prompt, added.reference)
    assert len({q.id for q in questions}) == len(questions) == 2
    right, wrong = ([grade(benchmark, q, f(q)) for q in questions] for f in (_right, lambda _: added.wrong))
    assert benchmark.metrics(right) == {"accuracy": added.full}
    assert benchmark.metrics(wrong) == {"accuracy": added.nothing}
    path = tmp_path / "how_many/questions.jsonl"
    path.write_text("\n" + path.read_text().rstrip()[:-3])
    with pytest.raises(RequestError, match=r"line 3: .*"):
        benchmark.questions(tmp_path)


def _right(question: Any) -> str:
    return f"There are {question.reference}."


def test_the_added_benchmark_is_listed_checked_and_scored(added, tmp_path, capsys):
    added.write(tmp_path, "how_many")
    assert main(["benchmarks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["benchmarks"]
    assert [b["graded_by"] for b in listed if b["name"] == "how_many"] == ["rule"]
    assert main(["doctor", "--eval-root", str(tmp_path)]) == 3  # its picture is not there
    assert "how_many/images/sky.jpg" in capsys.readouterr().out
    rows = [{"question_id": 1, "text": "3"}, {"question_id": 2, "text": "none"}]
    write_lines(tmp_path / "answers.jsonl", rows)
    argv = ["score", "how_many", "--eval-root", str(tmp_path), "--answers", str(tmp_path / "answers.jsonl")]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["metrics"], found["n"], found["missing"]) == ({"accuracy": 50.0}, 2, 0)


def test_the_ids_survive_reordering(added, tmp_path):
    added.write(tmp_path, "how_many")
    benchmark, path = benchmarks.load("how_many"), tmp_path / "how_many/questions.jsonl"
    before = {q.row_id: q.id for q in benchmark.questions(tmp_path)}
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert {q.row_id: q.id for q in benchmark.questions(tmp_path)} == before
    question = benchmark.questions(tmp_path)[0]
    assert make_question("how_many", "2", question.medium, question.prompt, "", "").id == question.id
