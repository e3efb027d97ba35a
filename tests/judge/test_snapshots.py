"""Verdicts belong to a snapshot of the judge: none is mixed in, in a run, from other runs or the cache."""

from dataclasses import replace
from pathlib import Path

import pytest

from raypipe.errors import ServiceError
from raypipe.records import Outcome
from raypipe.store.files import Store
from tests.judge.cases import prediction, rows, stream_of, view
from tests.support.judge_endpoint import GOOD, JudgeEndpoint, Say


def named(model: str, fingerprint: str | None = None) -> Say:
    return Say(GOOD, model=model, fingerprint=fingerprint)


def test_a_judge_that_changes_in_mid_run_stops_it(store: Store) -> None:
    script = [named("j-1")] * 3 + [named("j-2")] * 2
    with JudgeEndpoint(script) as endpoint, stream_of(store, endpoint, concurrency=1) as stream:
        stream.add([prediction(i) for i in range(9)])
        with pytest.raises(ServiceError, match="answered as j-1 and now answers as j-2") as fault:
            stream.finish()
        assert len(endpoint.calls) == 4
    assert "new_snapshot=judge_again" in fault.value.remedy
    assert len(rows(store)) == 4, "what was paid is kept"
    with JudgeEndpoint(then=named("j-2")) as endpoint, stream_of(store, endpoint) as stream:
        stream.add([prediction(i) for i in range(9)])
        with pytest.raises(ServiceError, match="never mixes"):
            stream.finish()
        assert not endpoint.calls, "nothing is paid before a person has decided"


def test_what_an_older_judge_said_is_judged_again_on_wish(store: Store) -> None:
    script = [named("j-1")] * 3
    with JudgeEndpoint(script, then=named("j-2")) as endpoint:
        with stream_of(store, endpoint, concurrency=1, new_snapshot="judge_again") as stream:
            stream.add([prediction(i) for i in range(5)])
            verdicts = stream.finish()
        assert len(endpoint.calls) == 3 + 5
        assert {v.judge_model for v in verdicts} == {"j-2"}
        assert view(store) == verdicts
        with stream_of(store, endpoint) as stream:
            stream.add([prediction(i) for i in range(5)])
            assert stream.finish() == verdicts
        assert len(endpoint.calls) == 8, "the next start knows which snapshot counts"


def test_a_judge_that_changes_to_and_fro_stops_the_run(store: Store) -> None:
    names = iter(["j-1", "j-2"] * 50)
    with JudgeEndpoint(then=lambda _: named(next(names))) as endpoint:
        with stream_of(store, endpoint, concurrency=2, new_snapshot="judge_again") as stream:
            stream.add([prediction(i) for i in range(30)])
            with pytest.raises(ServiceError, match="changed again"):
                stream.finish()
        assert len(endpoint.calls) < 15


def test_a_fingerprint_tells_snapshots_apart_on_wish_only(store: Store, tmp_path: Path) -> None:
    script = [named("j", "fp_1"), named("j", "fp_2")]
    with JudgeEndpoint(script) as endpoint, stream_of(store, endpoint, concurrency=1) as stream:
        stream.add([prediction(0), prediction(1)])
        assert [v.fingerprint for v in stream.finish()] == ["fp_1", "fp_2"]
    other = Store(str(tmp_path / "other"))
    strict = {"concurrency": 1, "pin": "fingerprint"}
    with JudgeEndpoint(script) as endpoint, stream_of(other, endpoint, **strict) as stream:
        stream.add([prediction(0), prediction(1)])
        with pytest.raises(ServiceError, match="j fp_1 and now answers as j fp_2"):
            stream.finish()


def test_known_verdicts_of_another_snapshot_are_not_mixed_in(store: Store, tmp_path: Path) -> None:
    with JudgeEndpoint(then=named("j-1")) as endpoint, stream_of(store, endpoint) as stream:
        stream.add([prediction(0)])
        known = stream.finish()
    other = Store(str(tmp_path / "other"))
    strange = [*known, replace(known[0], key="another")]
    with JudgeEndpoint(then=named("j-2")) as endpoint, stream_of(other, endpoint, known=strange) as stream:
        stream.add([prediction(0), prediction(1)])
        with pytest.raises(ServiceError, match="never mixes"):
            stream.finish()


# The cache.


def test_runs_share_verdicts_through_a_cache(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    made = []
    with JudgeEndpoint() as endpoint:
        for number, answers in enumerate((4, 6, 6)):
            store = Store(str(tmp_path / f"run{number}"))
            with stream_of(store, endpoint, cache=cache) as stream:
                stream.add([prediction(i, key=f"checkpoint{number}") for i in range(answers)])
                made.append(stream.finish())
        assert len(endpoint.calls) == 6
        with stream_of(Store(str(tmp_path / "last")), endpoint, cache=cache, name="other") as stream:
            stream.add([prediction(0)])
            stream.finish()
        assert len(endpoint.calls) == 7, "another judge is another judge"
    assert made[1] == made[2]
    assert [v.question_id for v in rows(Store(str(tmp_path / "run2")))] == [f"q{i}" for i in range(6)]


def test_an_older_snapshot_in_the_cache_is_no_change_of_the_judge(tmp_path: Path) -> None:
    cache, run = str(tmp_path / "cache"), Store(str(tmp_path / "run"))
    with (
        JudgeEndpoint(then=Say(model="old")) as endpoint,
        stream_of(Store(str(tmp_path / "older")), endpoint, cache=cache) as stream,
    ):
        stream.add([prediction(number) for number in range(1, 4)])
        stream.finish()
    with JudgeEndpoint(then=Say(model="new")) as endpoint:
        with stream_of(run, endpoint, cache=cache) as stream:
            stream.add([prediction(0)])
            stream._asking.wait()
            stream.add([prediction(1)])
            assert [v.judge_model for v in stream.finish()] == ["new", "new"]
        with stream_of(run, endpoint, cache=cache) as stream:
            stream.add([prediction(number) for number in range(4)])
            assert [v.judge_model for v in stream.finish()] == ["new"] * 4
        assert len(endpoint.calls) == 4


def test_what_a_killed_start_paid_is_shared_by_the_next_one(tmp_path: Path) -> None:
    run, cache = Store(str(tmp_path / "run")), str(tmp_path / "cache")
    with JudgeEndpoint() as endpoint:
        with stream_of(run, endpoint) as killed:  # it did not come to write into the cache
            killed.add([prediction(0)])
            killed.finish()
        for store in (run, run, Store(str(tmp_path / "other"))):
            with stream_of(store, endpoint, cache=cache) as stream:
                stream.add([prediction(0)])
                assert [v.outcome for v in stream.finish()] == [Outcome.OK]
        assert len(endpoint.calls) == 1
