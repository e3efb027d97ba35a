"""Every benchmark, small, in one command, with its judge; the report says what the scores say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from raypipe import benchmark as benchmarks
from raypipe import cli
from raypipe.demo.matching_judge import MODEL, MatchingJudge
from raypipe.records import MediumKind
from tests.support import reference_data
from tests.support.clips import write_clip, write_image
from tests.support.eval_roots import CASES, made_up

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def whole_root(root: Path) -> Path:
    """Made-up questions of every benchmark, and a clip or an image wherever one names a medium."""
    for name in benchmarks.names():
        split = benchmarks.load(name).split
        made_up(root, f"{name}:{split}" if f"{name}:{split}" in CASES else name)
    for number, name in enumerate(benchmarks.names()):
        for place, question in enumerate(benchmarks.load(name).questions(root)):
            medium = question.medium
            if medium is None or _is_there(root / medium.path):
                continue
            if medium.kind is MediumKind.VIDEO:
                write_clip(root / medium.path, frames=8 + number)
            else:
                write_image(root / medium.path, 16 * number + place)
    return root


def _is_there(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def asked(capsys, *argv: str) -> dict:
    """What a command prints as JSON; it must not fail, or only for want of coverage."""
    code = cli.main([*argv, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out, parse_constant=pytest.fail)


def command(root: Path, model: Path, out: Path, judge: MatchingJudge) -> list[str]:
    return [
        "evaluate",
        *("--model", str(model), "--benchmarks", "all", "--eval-root", str(root), "--out", str(out)),
        *("--max-new-tokens", "4", "--precision", "fp32", "--coverage-floor", "0"),
        *(f"judge.base_url={judge.base_url}", f"judge.model={MODEL}", "judge.key_env=RAYPIPE_TEST_NO_KEY"),
    ]


def same_scores(report: dict, scores: dict) -> None:
    """Every number of the report is that of scores.json."""
    found = {
        (b["name"], m["metric"]): (s["value"], s["low"], s["high"], s["n"], s["missing"])
        for b in report["benchmarks"]
        for m in b["metrics"]
        if (s := m["scores"]["it"])
    }
    wanted = {
        (name, s["metric"]): (s["value"], s["low"], s["high"], s["n"], s["missing"])
        for name, rows in scores["benchmarks"].items()
        for s in rows
    }
    assert {key: found.get(key) for key in wanted} == wanted
    for b in report["benchmarks"]:
        outcomes = {k: v for k, v in b["outcomes"]["it"].items() if v}
        assert outcomes == scores["coverage"][b["name"]]["outcomes"], b["name"]


def test_all_benchmarks_in_one_command(ray_local, tiny_folder, tmp_path, capsys):
    root, out = whole_root(tmp_path / "eval"), tmp_path / "run"
    with MatchingJudge() as judge:
        printed = asked(capsys, *command(root, tiny_folder, out, judge))
    scores = json.loads((out / "scores.json").read_text())
    assert {k: printed[k] for k in scores} == scores
    assert scores["coverage"].keys() == set(benchmarks.names())
    assert scores["missing_benchmarks"] == {}
    for name, coverage in scores["coverage"].items():
        outcomes = Counter(coverage["outcomes"])
        assert outcomes.total() == coverage["questions"] == len(benchmarks.load(name).questions(root))
        assert coverage["answered"] == coverage["questions"], (name, outcomes)
    graded = {n for n in benchmarks.names() if benchmarks.load(n).rule or benchmarks.load(n).rubric}
    assert scores["benchmarks"].keys() == graded
    assert scores["certificate"]["asked"] == scores["certificate"]["equal"] == 16
    report = asked(capsys, "report", f"it={out}", "--out", str(tmp_path / "report"))
    same_scores(report, scores)
    assert cli.main(["verify", str(out)]) == 0


def test_the_real_tree_in_one_command(ray_local, tiny_folder, tmp_path, capsys):
    root, out = reference_data("real") / "eval", tmp_path / "run"
    with MatchingJudge() as judge:
        asked(capsys, *command(root, tiny_folder, out, judge))
    scores = json.loads((out / "scores.json").read_text())
    answered = {n: (c["answered"], c["questions"]) for n, c in scores["coverage"].items()}
    assert answered == {"msvd_qa": (3, 4), "activitynet_qa": (3, 3), "tgif_qa": (2, 2)}
    assert all(c["counted"] == c["answered"] for c in scores["coverage"].values())
    report = asked(capsys, "report", f"it={out}", "--out", str(tmp_path / "report"))
    same_scores(report, scores)
    assert cli.main(["verify", str(out)]) == 0
