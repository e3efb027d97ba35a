"""What every benchmark must do, checked on made-up data for each one there is."""

from __future__ import annotations

import dataclasses
import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark, Graded, grade, graded_from_verdict, scores, ungraded
from raypipe.errors import RequestError
from raypipe.grading.judging import rubrics_of
from raypipe.grading.metrics import tabulate
from raypipe.grading.rubrics import RUBRICS
from raypipe.records import MediumKind, Outcome, Question
from tests.support.case import Case, predicted
from tests.support.eval_roots import CASES, made_up

ALL = [f"{n}:{s}" if s else n for n in benchmarks.names() for s in benchmarks.splits(n) or [""]]

pytestmark = pytest.mark.parametrize("name", ALL)


@pytest.fixture
def benchmark(name: str) -> Benchmark:
    plain, _, split = name.partition(":")
    return benchmarks.load(plain, split or None)


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture
def questions(name: str, benchmark: Benchmark, tmp_path) -> list[Question]:
    return benchmark.questions(made_up(tmp_path, name))


@pytest.fixture
def graded(benchmark: Benchmark, case: Case, questions: list[Question]):
    """All questions, answered right or wrong."""
    if benchmark.rule is None and benchmark.verdicts is None:
        pytest.skip("its answers are secret")

    def grade_all(right: bool) -> list[Graded]:
        return [_graded(benchmark, case, q, right) for q in questions]

    return grade_all


def _graded(benchmark: Benchmark, case: Case, question: Question, right: bool) -> Graded:
    if benchmark.rule is None:
        return case.judged(question, right)
    if right:
        return grade(benchmark, question, case.right(question) if case.right else question.reference)
    replies = ["yes", "no", "A", "B", "neither of these"]
    marks = [grade(benchmark, question, reply) for reply in replies]
    return next(mark for mark in marks if mark.value == 0)


def test_is_found_by_its_own_name(name, benchmark):
    assert ":".join(filter(None, [benchmark.name, benchmark.split])) in (name, f"{name}:{benchmark.split}")
    assert benchmark.rule is None or benchmark.verdicts is None
    assert benchmark.rule or benchmark.verdicts or benchmark.upload
    assert benchmark.rubric is None or set(rubrics_of(benchmark.rubric)) <= RUBRICS.keys()
    assert benchmark.reference_template == ("llava_v1" if benchmark.media is MediumKind.VIDEO else "v1")
    assert not benchmark.published or benchmark.published_source
    assert benchmark.source


def test_is_one_page_that_says_what_it_is(benchmark):
    module = importlib.import_module(f"{benchmarks.PACKAGE}.{benchmark.name}")
    assert len(Path(module.__file__).read_text(encoding="utf-8").splitlines()) <= 100
    assert len(module.__doc__) > 100


def test_ids_are_unique_and_come_from_content(name, benchmark, questions, tmp_path):
    again = benchmark.questions(made_up(tmp_path / "elsewhere", name))
    assert [q.id for q in again] == [q.id for q in questions]
    assert len({q.id for q in questions}) == len(questions)
    assert all(q.benchmark == benchmark.name for q in questions)
    assert all(q.medium is None or not q.medium.path.startswith("/") for q in questions)


def test_prompt_and_reference_are_the_golden_ones(case, questions):
    assert (questions[0].prompt, questions[0].reference) == (case.prompt, case.reference)


def test_right_answers_score_full_and_wrong_ones_nothing(benchmark, case, graded):
    assert benchmark.metrics(graded(True))[benchmark.primary] == pytest.approx(case.full)
    assert benchmark.metrics(graded(False))[benchmark.primary] == pytest.approx(case.nothing)


def test_the_golden_wrong_reply_is_wrong(benchmark, case, questions):
    if benchmark.rule is not None:
        assert grade(benchmark, questions[0], case.wrong).value == 0


def test_empty_reply_is_graded_as_it_stands_and_named(benchmark, case, questions):
    if benchmark.rule is not None:
        empty = grade(benchmark, questions[0], " \n")
    else:
        lost = predicted(questions[0], "", Outcome.EMPTY)
        empty = dataclasses.replace(case.judged(questions[0], False), outcome=lost.outcome)
    assert empty.outcome is Outcome.EMPTY
    assert empty.value is not None


@pytest.mark.parametrize("outcome", [Outcome.MEDIUM_BAD, Outcome.FAILED])
def test_missing_answers_are_counted_and_never_wrong(benchmark, case, questions, graded, outcome):
    all_right = graded(True)
    lost = predicted(questions[-1], "", outcome)
    gone = graded_from_verdict(lost, None) if benchmark.rule is None else grade(benchmark, lost, "")
    assert gone.outcome is outcome
    found = {s.metric: s for s in scores(benchmark, [*all_right[:-1], gone])}
    headline = found.get("accuracy", found[benchmark.primary])
    assert headline.value == pytest.approx(100 if "accuracy" in found else case.full)
    assert headline.n >= 1
    assert headline.missing >= 1


def test_nothing_answered_is_unknown_and_not_zero(benchmark, questions):
    for score in scores(benchmark, [ungraded(q, Outcome.FAILED) for q in questions]):
        assert score.n == 0
        assert math.isnan(score.value)


def test_every_score_has_an_interval_around_it(benchmark, graded):
    bounds = {}
    for right in (True, False):
        found = graded(right)
        bounds |= {m.name: m.bounds for m in benchmark.measure(tabulate(found))}
        for score in scores(benchmark, found):
            if not score.n:
                continue
            low, high = bounds[score.metric]
            assert low <= score.low <= score.value <= score.high <= high
            assert score.low < score.high
            assert score == next(s for s in scores(benchmark, found) if s.metric == score.metric)


def test_missing_data_names_the_file(name, benchmark, tmp_path):
    missing = benchmark.missing_data(tmp_path)
    assert missing is not None
    with pytest.raises(RequestError, match="no such file") as fault:
        benchmark.questions(tmp_path)
    assert missing in fault.value.message
    assert benchmark.missing_data(made_up(tmp_path, name)) is None


def test_damaged_file_is_named_with_its_line(name, benchmark, tmp_path):
    made_up(tmp_path, name)
    places = benchmark.files[0]
    path = tmp_path / (places if isinstance(places, str) else places[0])
    path.write_text("\n" + path.read_text(encoding="utf-8").rstrip()[:-3])
    with pytest.raises(RequestError, match=r"line \d+") as fault:
        benchmark.questions(tmp_path)
    assert str(path) in fault.value.message


def test_a_repeated_question_is_refused(benchmark, questions, tmp_path):
    twice = dataclasses.replace(benchmark, read=lambda _: [*questions, questions[0]])
    with pytest.raises(RequestError, match="twice"):
        twice.questions(tmp_path)


def test_grading_needs_neither_torch_nor_ray(name):
    code = (
        f"import sys; from raypipe import benchmark; benchmark.load({name.partition(':')[0]!r}); "
        "import raypipe.report.score; "
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
