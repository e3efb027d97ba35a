"""Judging a run: what is asked, what is shared, what is committed, what a second run asks again."""

import dataclasses
from pathlib import Path

import pytest

from raypipe.demo.matching_judge import MatchingJudge
from raypipe.errors import RequestError, ServiceError
from raypipe.judge import log
from raypipe.judge.log import VERDICTS
from raypipe.judge.run import cost_usd, judge_run
from raypipe.records import VERDICT_SCHEMA, Outcome, Prediction, Verdict, verdicts_of
from raypipe.settings import JudgeSettings, Price
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from tests.judge.cases import BENCHMARK, prediction, settings
from tests.support.judge_endpoint import JudgeEndpoint, Refuse, Say


def rubric_of(benchmark: str) -> str | None:
    return "video_qa" if benchmark == BENCHMARK else None


def judged(store: Store, predictions: list[Prediction], made: JudgeSettings, **more) -> list[Verdict]:
    return judge_run(store, predictions, rubric_of, made, use_ray=False, **more)


def rows(store: Store) -> list[Verdict]:
    return verdicts_of(Ledger(store, VERDICTS, VERDICT_SCHEMA).rows())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def test_a_second_run_asks_nothing(store: Store) -> None:
    predictions = [prediction(i) for i in range(5)]
    seen: list[tuple[int, int]] = []
    with JudgeEndpoint() as endpoint:
        first = judged(store, predictions, settings(endpoint), progress=lambda *at: seen.append(at))
        assert len(endpoint.calls) == 5
        second = judged(store, predictions[::-1], settings(endpoint))
        assert len(endpoint.calls) == 5
    assert [v.question_id for v in first] == [p.question_id for p in predictions]
    assert second == first[::-1]
    assert sorted(rows(store), key=lambda v: v.question_id) == first
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)


def test_a_finished_run_needs_no_judge_and_no_key(store: Store) -> None:
    with JudgeEndpoint() as endpoint:
        made = settings(endpoint)
        first = judged(store, [prediction()], made)
    away = made.model_copy(update={"base_url": "https://judge.example/v1"})
    assert judged(store, [prediction()], away) == first
    with pytest.raises(RequestError, match="RAYPIPE_TEST_NO_KEY"):
        judged(store, [prediction(1)], away)


def test_identical_contents_are_asked_once_and_stored_for_each_question(store: Store) -> None:
    twins = [prediction(i, text=text) for i, text in enumerate(["a cat", " a  cat ", "a cat", "a dog"])]
    with JudgeEndpoint() as endpoint:
        verdicts = judged(store, twins, settings(endpoint))
        assert len(endpoint.calls) == 2
        more = judged(store, [*twins, prediction(9, text="a cat")], settings(endpoint))
        assert len(endpoint.calls) == 2, "a later question with the same content is free"
    assert [v.question_id for v in verdicts] == ["q0", "q1", "q2", "q3"]
    assert len({v.key for v in verdicts}) == 2
    assert more[-1].question_id == "q9"
    assert sorted(v.question_id for v in rows(store)) == ["q0", "q1", "q2", "q3", "q9"]
    assert cost_usd(more, Price(prompt=10.0, reply=100.0)) == pytest.approx(2 * (100 * 10 + 10 * 100) / 1e6)


def test_verdicts_of_another_run_are_taken_over_for_free(store: Store, tmp_path: Path) -> None:
    with JudgeEndpoint() as endpoint:
        known = judged(store, [prediction(0), prediction(1)], settings(endpoint))
        other = Store(str(tmp_path / "other"))
        checkpoint = [dataclasses.replace(p, key="x") for p in (prediction(0), prediction(1), prediction(2))]
        judged(other, checkpoint, settings(endpoint), known=known)
        assert len(endpoint.calls) == 3
    assert sorted(v.question_id for v in rows(other)) == ["q0", "q1", "q2"], "the run stands by itself"


def test_only_answers_to_open_questions_are_judged(store: Store) -> None:
    predictions = [
        prediction(0),
        prediction(1, text="", outcome=Outcome.EMPTY),
        prediction(2, text="", outcome=Outcome.MEDIUM_BAD),
        prediction(3, text="", outcome=Outcome.FAILED),
        prediction(4, benchmark="pope"),
    ]
    with JudgeEndpoint() as endpoint:
        verdicts = judged(store, predictions, settings(endpoint))
        shown = sorted(call.shown["predicted_answer"] for call in endpoint.calls)
    assert [v.question_id for v in verdicts] == ["q0", "q1"]
    assert shown == ["", "a cat 0"]


def test_what_got_no_verdict_is_counted_and_asked_again(store: Store) -> None:
    predictions = [prediction(i) for i in range(3)]
    replies = {"a cat 0": Say(), "a cat 1": Say("no idea"), "a cat 2": Refuse(500)}
    with JudgeEndpoint(then=lambda shown: replies[shown["predicted_answer"]]) as endpoint:
        bad = judged(store, predictions, settings(endpoint, tries=1))
    outcomes = [Outcome.OK, Outcome.JUDGE_UNREADABLE, Outcome.JUDGE_FAILED]
    assert [v.outcome for v in bad] == outcomes
    assert sorted(v.outcome for v in rows(store)) == sorted(outcomes), "a report can count them"
    with JudgeEndpoint() as endpoint:
        good = judged(store, predictions, settings(endpoint))
        asked = sorted(call.shown["predicted_answer"] for call in endpoint.calls)
        judged(store, predictions, settings(endpoint))
        assert len(endpoint.calls) == 2
    assert asked == ["a cat 1", "a cat 2"]
    assert [v.outcome for v in good] == [Outcome.OK] * 3
    assert good[0] == bad[0]


def test_a_stopped_run_keeps_what_was_judged_and_continues(store: Store) -> None:
    predictions = [prediction(i) for i in range(10)]
    with JudgeEndpoint([Say()] * 5, then=Refuse(401)) as endpoint:
        with pytest.raises(ServiceError, match="HTTP 401"):
            judged(store, predictions, settings(endpoint, concurrency=1))
        assert endpoint.met.count(Refuse(401)) == 1
    kept = rows(store)
    assert len(kept) == 5, "each answer that was given before the stop"
    with JudgeEndpoint() as endpoint:
        verdicts = judged(store, predictions, settings(endpoint))
        assert len(endpoint.calls) == 5
    assert {v.question_id for v in verdicts} == {p.question_id for p in predictions}
    assert len(rows(store)) == 10


def test_ten_thousand_verdicts_are_a_few_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SEAL_ROWS", 8)
    with JudgeEndpoint() as endpoint:
        judged(store, [prediction(i) for i in range(30)], settings(endpoint))
    names = store.list(VERDICTS)
    assert 2 <= len(names) <= 8
    assert all(name.endswith(".arrow") for name in names), "nothing is left open"
    assert len(rows(store)) == 30


def test_judges_are_never_mixed(store: Store) -> None:
    with JudgeEndpoint() as endpoint:
        a = judged(store, [prediction()], settings(endpoint, name="a"))
        for change in ({"name": "b"}, {"name": "a", "model": "other"}, {"name": "a", "temperature": 1.0}):
            before = len(endpoint.calls)
            (verdict,) = judged(store, [prediction()], settings(endpoint, **change))
            assert len(endpoint.calls) == before + 1
            assert verdict.key != a[0].key
        assert judged(store, [prediction()], settings(endpoint, name="a")) == a


def test_an_unknown_rubric_is_a_request_error_before_anything_is_asked(store: Store) -> None:
    with JudgeEndpoint() as endpoint:
        with pytest.raises(RequestError, match="videoqa"):
            judge_run(store, [prediction()], lambda _: "videoqa", settings(endpoint), use_ray=False)
        assert not endpoint.calls


def test_with_the_demos_judge(store: Store) -> None:
    predictions = [prediction(0, text="It is a cat."), prediction(1, text="a dog")]
    with MatchingJudge() as judge:
        made = JudgeSettings(name="matching", base_url=judge.base_url, key_env="RAYPIPE_TEST_NO_KEY")
        verdicts = judged(store, predictions, made)
    assert [(v.correct, v.score) for v in verdicts] == [(True, 5.0), (False, 0.0)]
    assert {v.judge_model for v in verdicts} == {"raypipe-matching-judge"}


def test_nothing_to_judge(store: Store) -> None:
    with JudgeEndpoint() as endpoint:
        assert judged(store, [], settings(endpoint)) == []
    assert cost_usd([], Price(prompt=1.0, reply=1.0)) == 0.0
