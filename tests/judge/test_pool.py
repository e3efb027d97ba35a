"""The judge's actors on a real Ray."""

from concurrent.futures import Future
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from raypipe.errors import RequestError, ServiceError
from raypipe.judge.batch import Judged
from raypipe.judge.pool import _pass_on
from raypipe.judge.run import judge_run
from raypipe.records import Outcome
from raypipe.store.files import Store
from tests.judge.cases import prediction, settings
from tests.support.judge_endpoint import JudgeEndpoint, Refuse


@pytest.mark.engine
def test_actors_judge_as_a_thread_does(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    predictions = [prediction(i) for i in range(150)]
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        with JudgeEndpoint() as endpoint:
            made = settings(endpoint, concurrency=70)
            here = judge_run(
                Store(str(tmp_path / "a")), predictions, lambda _: "video_qa", made, use_ray=False
            )
            there = judge_run(Store(str(tmp_path / "b")), predictions, lambda _: "video_qa", made)
            assert len(endpoint.calls) == 300
        assert there == here
        assert {v.outcome for v in there} == {Outcome.OK}
        with JudgeEndpoint(then=Refuse(401)) as endpoint, pytest.raises(ServiceError, match="HTTP 401"):
            judge_run(Store(str(tmp_path / "c")), predictions, lambda _: "video_qa", settings(endpoint))
        away = made.model_copy(update={"base_url": "https://judge.example/v1"})
        with pytest.raises(RequestError, match="RAYPIPE_TEST_NO_KEY"):
            judge_run(Store(str(tmp_path / "d")), predictions, lambda _: "video_qa", away)
    finally:
        ray.shutdown()


def test_a_lost_worker_stops_the_run_resumably_and_a_bug_is_not_hidden() -> None:
    lost, bug = _passed_on(RayActorError()), _passed_on(ZeroDivisionError())
    assert isinstance(lost.result().stop, ServiceError)
    assert lost.result().verdicts == ()
    assert isinstance(bug.exception(), ZeroDivisionError)


def _passed_on(fault: Exception) -> Future[Judged]:
    done: Future[Judged] = Future()
    done.set_exception(fault)
    to: Future[Judged] = Future()
    _pass_on(done, to)
    return to
