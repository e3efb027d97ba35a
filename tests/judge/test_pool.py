"""The judge's actors on a real Ray."""

import asyncio
from pathlib import Path

import pytest

from raypipe.errors import RequestError, ServiceError
from raypipe.judge.client import Call, Fault, Kind, Reply
from raypipe.judge.pool import RaySender
from raypipe.judge.run import judge_run
from raypipe.judge.stream import JudgeStream
from raypipe.records import Outcome
from raypipe.settings import Price
from raypipe.store.files import Store
from tests.judge.cases import prediction, settings
from tests.support.judge_endpoint import JudgeEndpoint, Refuse, Say

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_local")]
CALL = Call("video_qa", "judge", '{"code": "c0de"}', {"type": "object"})


def video_qa(_: str) -> str:
    return "video_qa"


def test_actors_judge_as_a_thread_does(tmp_path: Path) -> None:
    predictions = [prediction(i) for i in range(150)]
    with JudgeEndpoint() as endpoint:
        made = settings(endpoint, concurrency=70)
        here = judge_run(Store(str(tmp_path / "a")), predictions, video_qa, made, use_ray=False)
        there = judge_run(Store(str(tmp_path / "b")), predictions, video_qa, made)
        assert len(endpoint.calls) == 300
        assert endpoint.busiest <= 70
    assert there == here
    assert {v.outcome for v in there} == {Outcome.OK}


def test_what_stops_a_run_stops_it_from_every_actor(tmp_path: Path) -> None:
    predictions = [prediction(i) for i in range(150)]
    with JudgeEndpoint(then=Refuse(401)) as endpoint:
        with pytest.raises(ServiceError, match="HTTP 401"):
            judge_run(Store(str(tmp_path / "a")), predictions, video_qa, settings(endpoint, concurrency=8))
        assert len(endpoint.calls) <= 9
    away = settings(endpoint, base_url="https://judge.example/v1")
    with pytest.raises(RequestError, match="RAYPIPE_TEST_NO_KEY"):
        JudgeStream(Store(str(tmp_path / "b")), video_qa, away)


def test_one_governor_holds_all_actors_back_and_to_the_ceiling(tmp_path: Path) -> None:
    limited = Refuse(429, headers={"Retry-After": "1"})
    price = {"price": Price(prompt=10.0, reply=100.0), "max_usd": 0.3, "max_reply_tokens": 32}
    with JudgeEndpoint([Say()] * 3 + [limited]) as endpoint:
        made = settings(endpoint, concurrency=130, **price)  # three actors
        predictions = [prediction(i) for i in range(400)]
        with pytest.raises(ServiceError, match="the ceiling of"):
            judge_run(Store(str(tmp_path / "a")), predictions, video_qa, made)
        came = [call.at_s for call in endpoint.calls]
        (told,) = [call.at_s for call in endpoint.calls if call.step is limited]
        answered = len(came) - 1
    assert answered * (100 * 10 + 10 * 100) / 1e6 <= 0.3
    assert answered > 60
    # What was on its way when the endpoint asked to wait may come; then nobody does until the wait is over.
    early = [at for at in came if told + 0.5 < at < told + 1.0]
    assert not early


def test_a_dead_actor_gives_its_permits_back_and_its_calls_are_sent_again(tmp_path: Path) -> None:
    import ray

    with JudgeEndpoint(then=Say(delay_s=0.5)) as endpoint:
        stream = JudgeStream(Store(str(tmp_path)), video_qa, settings(endpoint, concurrency=6))
        with stream:
            stream.add([prediction(i) for i in range(12)])
            (actor,) = stream._asking._sender._sender._sender.workers()
            while not endpoint.calls:
                pass
            ray.kill(actor, no_restart=False)
            verdicts = stream.finish()
        assert len(endpoint.calls) > 12, "the calls under way were lost and sent again"
        assert len(endpoint.calls) <= 12 + 6
    assert [v.outcome for v in verdicts] == [Outcome.OK] * 12


def test_an_actor_that_is_stuck_holds_nobody_up() -> None:
    with JudgeEndpoint(then=Say(delay_s=5.0)) as endpoint:
        sender = RaySender(settings(endpoint))
        sender._patience_s = 0.5
        stuck = asyncio.run(sender.send(CALL))
        asyncio.run(sender.close())
    assert isinstance(stuck, Fault)
    assert (stuck.kind, stuck.paid) == (Kind.PASSING, True)
    assert "does not answer" in stuck.why


def test_a_call_of_a_lost_actor_may_be_paid_and_passes() -> None:
    import ray

    with JudgeEndpoint() as endpoint:
        sender = RaySender(settings(endpoint))

        async def both() -> tuple[Reply | Fault, Reply | Fault]:
            first = await sender.send(CALL)
            ray.kill(sender.workers()[0])
            return first, await sender.send(CALL)

        came, lost = asyncio.run(both())
        asyncio.run(sender.close())
    assert isinstance(came, Reply)
    assert isinstance(lost, Fault)
    assert (lost.kind, lost.paid) == (Kind.PASSING, True)
