"""Stored verdicts against today's judge, and what judging will cost before it is started."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raypipe.benchmark import load
from raypipe.cli import parse
from raypipe.errors import RequestError
from raypipe.evaluate.drift import drift_of
from raypipe.judge.drift import drift, kappa, render
from raypipe.judge.estimate import estimate, unanswered
from raypipe.judge.run import judge_run
from raypipe.records import Outcome, Question
from raypipe.settings import Price
from raypipe.store.files import Store
from tests.judge.cases import prediction, settings
from tests.report import runs
from tests.support.judge_endpoint import JudgeEndpoint, Refuse, Say, good

YES, NO = Say(good(verdict="yes", score=5)), Say(good(verdict="no", score=1), model="scripted-judge-1106")


def video_qa(_: str) -> str:
    return "video_qa"


def answers(count: int):
    return [prediction(i, medium=f"clip{i // 2}.mp4") for i in range(count)]


def test_a_judge_that_changed_is_seen_and_nothing_is_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    with JudgeEndpoint(then=YES) as endpoint:
        stored = judge_run(store, answers(20), video_qa, settings(endpoint), use_ray=False)
    before = {name: store.read(name) for name in store.list()}

    def today(shown: dict[str, str]) -> Say:
        return NO if int(shown["predicted_answer"].split()[-1]) % 2 else replace(YES, model=NO.model)

    with JudgeEndpoint(then=today) as endpoint:
        found = drift(answers(20), stored, video_qa, settings(endpoint), sample=12, use_ray=False)
        first = sorted(call.shown["predicted_answer"] for call in endpoint.calls)
        drift(answers(20), stored[::-1], video_qa, settings(endpoint), sample=12, use_ray=False)
        second = sorted(call.shown["predicted_answer"] for call in endpoint.calls[12:])
    assert first == second, "the sample is fixed"
    assert len(first) == 12
    (agreement,) = found.agreements
    changed = sum(int(text.split()[-1]) % 2 for text in first)
    assert 0 < changed < 12
    assert agreement.exact == pytest.approx(1 - changed / 12)
    assert agreement.kappa == pytest.approx(0.0)
    assert agreement.difference == pytest.approx(-4 * changed / 12)
    assert agreement.low < agreement.difference < agreement.high <= 0
    assert (found.then, found.now) == ({"scripted-judge-0613": 12}, {"scripted-judge-1106": 12})
    assert {name: store.read(name) for name in store.list()} == before
    text = render(found)
    assert "scripted-judge-0613 (12) then, scripted-judge-1106 (12) now" in text
    assert "video_qa: 12 verdicts" in text
    json.dumps(found.row())


def test_a_judge_that_says_the_same_agrees(tmp_path: Path) -> None:
    with JudgeEndpoint(then=YES) as endpoint:
        stored = judge_run(Store(str(tmp_path)), answers(6), video_qa, settings(endpoint), use_ray=False)
        found = drift(answers(6), stored, video_qa, settings(endpoint), use_ray=False)
    (agreement,) = found.agreements
    assert (agreement.exact, agreement.kappa, agreement.difference) == (1.0, None, 0.0)
    assert agreement.low < 0 < agreement.high, "six answers prove little"


def test_what_got_no_verdict_today_is_counted_and_is_no_disagreement(tmp_path: Path) -> None:
    with JudgeEndpoint(then=YES) as endpoint:
        stored = judge_run(Store(str(tmp_path)), answers(4), video_qa, settings(endpoint), use_ray=False)
    with JudgeEndpoint(then=lambda s: Refuse(400) if s["predicted_answer"] == "a cat 0" else YES) as endpoint:
        (some,) = drift(answers(4), stored, video_qa, settings(endpoint), use_ray=False).agreements
    with JudgeEndpoint(then=Refuse(400)) as endpoint:
        (none,) = drift(answers(4), stored, video_qa, settings(endpoint), use_ray=False).agreements
    assert (some.n, some.lost, some.exact) == (3, 1, 1.0)
    assert (none.n, none.lost, none.exact) == (0, 4, None)


def test_another_judge_has_nothing_to_compare(tmp_path: Path) -> None:
    with JudgeEndpoint(then=YES) as endpoint:
        stored = judge_run(Store(str(tmp_path)), answers(2), video_qa, settings(endpoint), use_ray=False)
        with pytest.raises(RequestError, match="no verdict by the judge 'other'"):
            drift(answers(2), stored, video_qa, settings(endpoint, name="other"), use_ray=False)


def test_only_the_rubrics_of_the_sample_are_asked(tmp_path: Path) -> None:
    asks = load("video_chatgpt").rubric
    generic = [
        prediction(i, benchmark="video_chatgpt", category="generic", row_id=f"generic/v_{i}")
        for i in range(3)
    ]
    with JudgeEndpoint(then=Say(good(score=4))) as endpoint:
        stored = judge_run(Store(str(tmp_path)), generic, lambda _: asks, settings(endpoint), use_ray=False)
        assert len(endpoint.calls) == 9
        found = drift(generic, stored, lambda _: asks, settings(endpoint), sample=4, use_ray=False)
        assert len(endpoint.calls) == 13
    assert sum(a.n for a in found.agreements) == 4


def test_a_run_is_compared_by_the_command(tmp_path: Path) -> None:
    made = [runs.prediction(q, "yes") for q in runs.video_questions(4)]
    path = runs.evaluate_run(tmp_path / "run", made)
    with JudgeEndpoint(then=YES) as endpoint:
        with pytest.raises(RequestError, match="has not been judged"):
            drift_of(path, settings(endpoint), 10, use_ray=False)
        judge_run(Store(path), made, video_qa, settings(endpoint), use_ray=False)
        found = drift_of(path, settings(endpoint), 3, use_ray=False)
    assert [a.n for a in found.agreements] == [3]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("RUN --drift", "100"),
        ("RUN --drift --json", "100"),
        ("RUN --drift 7", "7"),
        ("RUN --drift=7", "7"),
        ("--drift RUN", "100"),
        ("RUN drift=7", "7"),
    ],
)
def test_the_size_of_the_sample_may_be_left_out(line: str, value: str) -> None:
    request = parse(line.split())
    assert request.take("drift") == value
    assert request.words == ["RUN"]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [([(1, 1), (0, 0)], 1.0), ([(1, 0), (0, 1)], -1.0), ([(1, 1)], None), ([(1, 0)] * 3, 0.0)],
)
def test_kappa(pairs: list[tuple[int, int]], expected: float | None) -> None:
    assert kappa(pairs) == expected


# Before the start.


def test_the_estimate_knows_what_is_asked_and_what_is_known_already(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    twins = [*answers(5), prediction(9, text="a cat 1"), prediction(8, outcome=Outcome.MEDIUM_BAD)]
    with JudgeEndpoint() as endpoint:
        made = settings(endpoint, price=Price(prompt=1.0, reply=2.0))
        found = estimate(twins, video_qa, made, run_store=store)
        assert (found.calls, found.shared) == (5, 1)
        assert not endpoint.calls
        judge_run(store, answers(3), video_qa, made, use_ray=False)
        assert estimate(twins, video_qa, made, run_store=store).calls == 2
    assert 0 < found.usd < found.at_most_usd
    assert found.usd == pytest.approx((found.prompt_tokens + 2 * found.reply_tokens) / 1e6)


def test_the_estimate_counts_questions_that_are_not_answered_yet() -> None:
    asks = {name: load(name).rubric for name in ("msvd_qa", "video_chatgpt", "pope")}
    questions = [Question(f"q{i}", "msvd_qa", str(i), None, "what?", "what?", "cat") for i in range(4)]
    questions += [
        Question(f"g{i}", "video_chatgpt", f"generic/v_{i}", None, "p", "p", "a", "generic") for i in (1, 2)
    ]
    questions += [
        Question(f"c{i}", "video_chatgpt", f"consistency/v_0/{i}", None, "p", "p", "a", "consistency")
        for i in (1, 2)
    ]
    questions += [Question("p", "pope", "1", None, "p", "p", "yes")]
    with JudgeEndpoint() as endpoint:
        made = settings(endpoint)
    short = estimate(map(unanswered, questions), asks.get, made)
    long = estimate(map(unanswered, questions), asks.get, made, answer_tokens=130)
    assert short.calls == 4 + 2 * 3 + 1
    assert long.prompt_tokens - short.prompt_tokens == 100 * (4 + 6 + 2)


def test_the_estimate_is_near_the_bill_of_a_judge_that_counts_as_it_does(tmp_path: Path) -> None:
    def tokens(text: str) -> int:
        return len(text) // 4

    import raypipe.grading.rubrics as rubrics

    system = tokens(rubrics.RUBRICS["video_qa"].system)
    reply = tokens(json.dumps({"code": "0" * 18, "verdict": "yes", "score": 5}))
    billed: list[int] = []

    def judge(shown: dict[str, str]) -> Say:
        usage = (system + tokens(json.dumps(shown)), reply)
        billed.append(usage[0] + 3 * usage[1])
        return Say(usage=usage)

    with JudgeEndpoint(then=judge) as endpoint:
        made = settings(endpoint, price=Price(prompt=1.0, reply=3.0))
        found = estimate(answers(50), video_qa, made)
        judge_run(Store(str(tmp_path)), answers(50), video_qa, made, use_ray=False)
    assert found.calls == len(billed) == 50
    assert found.usd == pytest.approx(sum(billed) / 1e6, rel=0.15)
    assert found.at_most_usd > sum(billed) / 1e6
