"""What judging tells the dashboard."""

import time
from pathlib import Path

import pytest

from raypipe.settings import Price
from raypipe.store.files import Store
from tests.judge.cases import prediction, stream_of
from tests.support.judge_endpoint import JudgeEndpoint, Refuse, Say
from tests.support.told import Told


def test_calls_verdicts_and_what_they_cost(tmp_path: Path, told: Told) -> None:
    """Two refusals that pass, a reply that is none twice, four verdicts, one of which two questions share."""
    steps = [Refuse(429, headers={"Retry-After": "0.1"}), Refuse(500), Say("no verdict"), Say("nor this")]
    answers = [prediction(i) for i in range(5)]
    price = {"price": Price(prompt=10.0, reply=100.0), "max_usd": 1.0}
    with (
        JudgeEndpoint(steps) as endpoint,
        stream_of(Store(str(tmp_path / "run")), endpoint, concurrency=1, **price) as stream,
    ):
        stream.add(answers)
        stream.finish()
        assert len(endpoint.calls) == 8
    tags = ("run", "judge")
    ends = {(*tags, "replied"): 6, (*tags, "limited"): 1, (*tags, "passing"): 1}
    assert told.sums("raypipe_judge_calls") == ends
    assert told.sums("raypipe_judge_verdicts") == {(*tags, "judge_unreadable"): 1, (*tags, "ok"): 4}
    assert told.sums("raypipe_judge_tokens") == {(*tags, "prompt"): 600, (*tags, "reply"): 60}
    assert len(told.values["raypipe_judge_reply_seconds"][tags]) == 6
    assert told.last("raypipe_judge_spent_usd") == {tags: pytest.approx(6 * 0.002)}
    assert told.last("raypipe_judge_ceiling_usd") == {tags: 1.0}
    assert max(told.values["raypipe_judge_in_flight"][tags]) == 1
    assert told.last("raypipe_judge_in_flight") == {tags: 0}
    waiting = told.values["raypipe_judge_waiting"][tags]
    assert (max(waiting), waiting[-1]) == (5, 0)


def test_without_a_price_there_is_no_cost(tmp_path: Path, told: Told) -> None:
    with JudgeEndpoint() as endpoint, stream_of(Store(str(tmp_path / "run")), endpoint) as stream:
        stream.add([prediction(0)])
        stream.finish()
    assert told.sums("raypipe_judge_verdicts") == {("run", "judge", "ok"): 1}
    assert "raypipe_judge_spent_usd" not in told.values
    assert "raypipe_judge_ceiling_usd" not in told.values


def test_what_is_given_up_is_not_shown_as_under_way(tmp_path: Path, told: Told) -> None:
    with JudgeEndpoint(then=Say(delay_s=60)) as endpoint:
        with stream_of(Store(str(tmp_path / "run")), endpoint, concurrency=2) as stream:
            stream.add([prediction(i) for i in range(4)])
            while len(endpoint.calls) < 2:
                time.sleep(0.01)
        assert max(told.values["raypipe_judge_in_flight"]["run", "judge"]) == 2
    assert told.last("raypipe_judge_in_flight") == {("run", "judge"): 0}
