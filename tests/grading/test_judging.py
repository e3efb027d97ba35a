"""What benchmarks ask a judge, and what answers are worth by its verdicts."""

from dataclasses import replace

import pytest

from raypipe.benchmark import grade_answer, load, scores
from raypipe.grading.judging import Ask, asks_of, by_question, outcome_with, rubrics_of
from raypipe.records import Outcome, Prediction, Question, Verdict
from tests.support.case import predicted

QUESTION = Question("q", "some", "1", None, "p", "Which?\nA. a cat\nB. a dog", "B")


def asked(name: str, **more) -> Prediction:
    values = {"benchmark": name, **more}
    return replace(predicted(QUESTION, "an answer"), **values)


def verdict(rubric: str = "r", outcome: Outcome = Outcome.OK, **more) -> Verdict:
    made = Verdict("key", "some", "q", "judge", "judge-1", f"{rubric}@hash", outcome, None, None, "", 1, 1)
    return replace(made, **more)


def wanted(name: str, **more) -> list[Ask]:
    return list(asks_of(load(name).rubric, asked(name, **more)))


def test_what_is_asked_of_an_answer() -> None:
    assert wanted("msvd_qa") == [Ask("video_qa")]
    assert wanted("llava_bench") == [Ask("llava_bench")]
    assert wanted("mm_vet") == [Ask("mm_vet")]
    assert wanted("mm_vet", reference="") == [], "without mm-vet.json nothing is known to judge by"
    assert wanted("video_chatgpt", category="temporal") == [Ask("video_chatgpt/temporal")]
    generic = ["correctness", "detail", "context"]
    assert wanted("video_chatgpt", category="generic") == [Ask(f"video_chatgpt/{a}") for a in generic]
    pair = {"category": "consistency", "row_id": "consistency/v_a_0/2"}
    assert wanted("video_chatgpt", **pair) == [Ask("video_chatgpt/consistency", "consistency/v_a_0", 2)]
    assert len(rubrics_of(load("video_chatgpt").rubric)) == 5


def test_a_mark_beside_the_references() -> None:
    graded = grade_answer(load("llava_bench"), asked("llava_bench"), [verdict(score=6.0, baseline=8.0)])
    assert (graded.value, graded.score, graded.baseline, graded.outcome) == (0.6, 6.0, 8.0, Outcome.OK)
    (metric, *_) = scores(load("llava_bench"), [graded])
    assert (metric.metric, metric.value) == ("all", 75.0)


def test_a_share_of_what_was_wanted() -> None:
    graded = grade_answer(load("mm_vet"), asked("mm_vet"), [verdict(score=0.3)])
    assert graded.value == 0.3
    assert load("mm_vet").metrics([graded])["total"] == pytest.approx(30)


def test_each_aspect_counts_and_a_lost_one_is_no_zero() -> None:
    benchmark, answer = load("video_chatgpt"), asked("video_chatgpt", category="generic")
    good = [verdict(f"video_chatgpt/{a}", score=s) for a, s in (("correctness", 4.0), ("detail", 2.0))]
    graded = grade_answer(benchmark, answer, [*good, verdict("video_chatgpt/context", score=3.0)])
    assert (graded.outcome, graded.score) == (Outcome.OK, 3.0)
    assert {"correctness=4", "detail=2", "context=3"} <= set(graded.tags)
    lost = verdict("video_chatgpt/context", Outcome.JUDGE_UNREADABLE)
    graded = grade_answer(benchmark, answer, [*good, lost])
    assert (graded.outcome, graded.score) == (Outcome.JUDGE_UNREADABLE, 3.0)
    assert benchmark.metrics([graded])["detail"] == 2.0
    found = {s.metric: s for s in scores(benchmark, [graded])}
    assert (found["context"].n, found["context"].missing) == (0, 1)
    assert grade_answer(benchmark, answer, good).outcome is Outcome.JUDGE_FAILED
    assert grade_answer(benchmark, answer, []).value is None


@pytest.mark.parametrize(
    ("choice", "value", "parsed"), [("B", 1.0, "B"), ("A", 0.0, "A"), ("", 0.0, "FAILED")]
)
def test_the_option_that_a_judge_finds_counts_where_the_rule_finds_none(
    choice: str, value: float, parsed: str
) -> None:
    benchmark = load("mmbench")
    talkative = asked("mmbench", text="It must be the second one.")
    graded = grade_answer(benchmark, talkative, [verdict("option", choice=choice)])
    assert (graded.value, graded.parsed) == (value, parsed)
    plain = asked("mmbench", text="A")
    assert grade_answer(benchmark, plain, [verdict("option", choice="B")]).value == 0.0, "the rule read it"


@pytest.mark.parametrize("name", ["msvd_qa", "llava_bench", "mm_vet", "video_chatgpt"])
@pytest.mark.parametrize("outcome", [Outcome.JUDGE_FAILED, Outcome.JUDGE_UNREADABLE])
def test_no_verdict_is_no_value(name: str, outcome: Outcome) -> None:
    answer = asked(name, category="temporal")
    graded = grade_answer(load(name), answer, [verdict(f"{name}/temporal", outcome)])
    assert (graded.value, graded.score, graded.outcome) == (None, None, outcome)
    assert grade_answer(load(name), answer).outcome is Outcome.JUDGE_FAILED
    lost = replace(answer, outcome=Outcome.MEDIUM_BAD)
    assert grade_answer(load(name), lost, [verdict(score=1.0)]).outcome is Outcome.MEDIUM_BAD


def test_verdicts_by_question_and_how_a_question_ended() -> None:
    lost = verdict(outcome=Outcome.JUDGE_FAILED)
    other = verdict(question_id="other")
    assert by_question([lost, other, verdict()]) == {"q": [lost, verdict()], "other": [other]}
    answer = asked("msvd_qa", outcome=Outcome.EMPTY)
    assert outcome_with(answer, [verdict(), lost]) is Outcome.JUDGE_FAILED
    assert outcome_with(answer, [verdict()]) is Outcome.EMPTY
