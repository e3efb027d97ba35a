"""What every benchmark must do, checked on made-up data for each one there is."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark, grade, graded_from_verdict, scores, ungraded
from raypipe.errors import RequestError
from raypipe.grading.metrics import tabulate
from raypipe.grading.rubrics import RUBRICS
from raypipe.records import MediumKind, Outcome, Prediction, Question, Verdict
from tests.support.eval_roots import made_up

# The first question of each: its prompt to the letter, its reference, and a reply that is wrong.
FIRST = {
    "msvd_qa": ("what is he doing", "running", ""),
    "msrvtt_qa": ("what is he doing", "running", ""),
    "tgif_qa": ("what is he doing", "running", ""),
    "activitynet_qa": ("what is he doing", "running", ""),
    "pope": (
        "Is there a kite in the image?\nAnswer the question using a single word or phrase.",
        "yes",
        "No, there is none.",
    ),
    "gqa": ("Is it overcast?\nAnswer the question using a single word or phrase.", "no", "Yes"),
    "scienceqa": (
        "Which sinks?\nA. cork\nB. iron\nAnswer with the option's letter from the given choices directly.",
        "B",
        "A",
    ),
}

pytestmark = pytest.mark.parametrize("name", benchmarks.names())


@pytest.fixture
def benchmark(name: str) -> Benchmark:
    return benchmarks.load(name)


@pytest.fixture
def questions(benchmark: Benchmark, tmp_path) -> list[Question]:
    return benchmark.questions(made_up(tmp_path, benchmark.name))


def _predicted(question: Question, text: str, outcome: Outcome = Outcome.OK) -> Prediction:
    medium = question.medium.path if question.medium else ""
    return Prediction(
        "key",
        question.benchmark,
        question.id,
        question.row_id,
        medium,
        question.category,
        question.prompt,
        question.question,
        question.reference,
        text,
        outcome,
        "",
        1,
    )


def _verdict(question: Question, correct: bool | None, outcome: Outcome = Outcome.OK) -> Verdict:
    score = None if correct is None else 5.0 * correct
    return Verdict(
        "key", question.benchmark, question.id, "judge", "judge-1", "r", outcome, correct, score, "", 1, 1
    )


def _graded(benchmark: Benchmark, question: Question, right: bool):
    if benchmark.rule is None:
        return graded_from_verdict(_predicted(question, "a reply"), _verdict(question, right))
    replies = [question.reference, "yes", "no", "A", "B", "neither of these"]
    marks = [grade(benchmark, question, reply) for reply in replies]
    return marks[0] if right else next(mark for mark in marks if mark.value == 0)


def test_is_found_by_its_own_name(name, benchmark):
    assert benchmark.name == name
    assert (benchmark.rule is None) != (benchmark.rubric is None)
    assert benchmark.rubric is None or benchmark.rubric in RUBRICS
    assert benchmark.reference_template == ("llava_v1" if benchmark.media is MediumKind.VIDEO else "v1")
    assert benchmark.published_source


def test_ids_are_unique_and_come_from_content(benchmark, questions, tmp_path):
    again = benchmark.questions(made_up(tmp_path / "elsewhere", benchmark.name))
    assert [q.id for q in again] == [q.id for q in questions]
    assert len({q.id for q in questions}) == len(questions)
    assert all(q.benchmark == benchmark.name for q in questions)
    assert all(q.medium is None or not q.medium.path.startswith("/") for q in questions)


def test_prompt_and_reference_are_the_golden_ones(name, questions):
    assert (questions[0].prompt, questions[0].reference) == FIRST[name][:2]


def test_right_answers_score_full_and_wrong_ones_nothing(benchmark, questions):
    right = benchmark.metrics([_graded(benchmark, q, True) for q in questions])
    wrong = benchmark.metrics([_graded(benchmark, q, False) for q in questions])
    assert right[benchmark.primary] == 100
    assert wrong[benchmark.primary] == 0


def test_the_golden_wrong_reply_is_wrong(name, benchmark, questions):
    if benchmark.rule is not None:
        assert grade(benchmark, questions[0], FIRST[name][2]).value == 0


def test_empty_reply_is_graded_as_it_stands_and_named(benchmark, questions):
    if benchmark.rule is None:
        graded = graded_from_verdict(
            _predicted(questions[0], "", Outcome.EMPTY), _verdict(questions[0], False)
        )
    else:
        graded = grade(benchmark, questions[0], " \n")
    assert graded.outcome is Outcome.EMPTY
    assert graded.value is not None


@pytest.mark.parametrize("outcome", [Outcome.MEDIUM_BAD, Outcome.FAILED])
def test_missing_answers_are_counted_and_never_wrong(benchmark, questions, outcome):
    graded = [_graded(benchmark, q, True) for q in questions]
    lost = _predicted(questions[-1], "", outcome)
    if benchmark.rule is None:
        graded[-1] = graded_from_verdict(lost, None)
    else:
        graded[-1] = grade(benchmark, lost, "")
    assert graded[-1].outcome is outcome
    accuracy = next(s for s in scores(benchmark, graded) if s.metric == "accuracy")
    assert (accuracy.value, accuracy.n, accuracy.missing) == (100, len(questions) - 1, 1)


def test_nothing_answered_is_unknown_and_not_zero(benchmark, questions):
    for score in scores(benchmark, [ungraded(q, Outcome.FAILED) for q in questions]):
        assert score.n == 0
        assert math.isnan(score.value)


def test_every_score_has_an_interval_around_it(benchmark, questions):
    bounds = {}
    for right in (True, False):
        graded = [_graded(benchmark, q, right) for q in questions]
        bounds |= {m.name: m.bounds for m in benchmark.measure(tabulate(graded))}
        for score in scores(benchmark, graded):
            low, high = bounds[score.metric]
            assert low <= score.low <= score.value <= score.high <= high
            assert score.low < score.high
            assert score == next(s for s in scores(benchmark, graded) if s.metric == score.metric)


def test_missing_data_names_the_file(benchmark, tmp_path):
    missing = benchmark.missing_data(tmp_path)
    assert missing is not None
    with pytest.raises(RequestError, match="no such file") as fault:
        benchmark.questions(tmp_path)
    assert missing in fault.value.message
    assert benchmark.missing_data(made_up(tmp_path, benchmark.name)) is None


def test_damaged_file_is_named_with_its_line(benchmark, tmp_path):
    made_up(tmp_path, benchmark.name)
    places = benchmark.files[0]
    path = tmp_path / (places if isinstance(places, str) else places[0])
    path.write_text("\n" + path.read_text().rstrip()[:-3])
    with pytest.raises(RequestError, match=r"line \d+") as fault:
        benchmark.questions(tmp_path)
    assert str(path) in fault.value.message


def test_a_repeated_question_is_refused(benchmark, questions, tmp_path):
    twice = dataclasses.replace(benchmark, read=lambda _: [*questions, questions[0]])
    with pytest.raises(RequestError, match="twice"):
        twice.questions(tmp_path)


def test_grading_needs_neither_torch_nor_ray(name):
    code = (
        f"import sys; from raypipe import benchmark; benchmark.load({name!r}); import raypipe.report.score; "
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
