"""Judging beside answering: it overlaps, its faults stop no answer, and old verdicts are never shown."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

import pytest

from raypipe.errors import BudgetError, ServiceError
from raypipe.evaluate.progress import Tally
from raypipe.evaluate.run import evaluate, in_process, judge_again
from raypipe.evaluate.work import Answerer, Done
from raypipe.report.collect import read_evaluation
from raypipe.settings import JudgeSettings
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.support.eval_media import asking
from tests.support.evaluated import Teller, answers_of, clip_root, committed, scores_of
from tests.support.judge_endpoint import JudgeEndpoint, Refuse, Say, good
from tests.support.tiny import save_tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return clip_root(tmp_path_factory.mktemp("eval"), [f"c{n}" for n in range(4)], questions=2)


@pytest.fixture(autouse=True)
def _engine(monkeypatch):
    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *_: Teller())


def judge_of(endpoint: JudgeEndpoint, **more) -> dict:
    return {"base_url": endpoint.base_url, "key_env": "RAYPIPE_TEST_NO_KEY", "concurrency": 2, **more}


def settings_of(root, model, out, endpoint=None, **more):
    judge = judge_of(endpoint) if endpoint else None
    return asking(root, model, out, benchmarks=["msvd_qa"], judge=judge, certificate=0, **more)


def until(what) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_answers_are_judged_while_others_are_made(root, tiny_folder, tmp_path):
    with JudgeEndpoint() as endpoint:

        def execute(units, work):
            for done in in_process(units[:-1], work):
                yield done
                until(lambda: endpoint.calls)  # comes without another answer
            yield from in_process(units[-1:], work)

        summary = evaluate(settings_of(root, tiny_folder, tmp_path / "run", endpoint), execute=execute)
    assert summary["coverage"]["msvd_qa"]["counted"] == 8
    assert summary["coverage"]["msvd_qa"]["flagged"] == 0


def test_what_was_committed_is_judged_when_the_run_goes_on(root, tiny_folder, tmp_path):
    plain = settings_of(root, tiny_folder, tmp_path / "run")

    def half(units, work):
        yield from in_process(units[:2], work)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(plain, execute=half)
    with JudgeEndpoint() as endpoint:

        def execute(units, work):
            until(lambda: len(endpoint.calls) == 4)  # the answers of two units, before the next is begun
            yield from in_process(units, work)

        evaluate(settings_of(root, tiny_folder, tmp_path / "run", endpoint), execute=execute)
        assert len(endpoint.calls) == 8


def test_a_judge_that_refuses_stops_no_answer(root, tiny_folder, tmp_path):
    out = tmp_path / "run"
    with JudgeEndpoint(then=Refuse(401)) as endpoint, pytest.raises(ServiceError) as fault:
        evaluate(settings_of(root, tiny_folder, out, endpoint), execute=in_process)
    assert fault.value.exit_code == 5
    assert {o for _, o, _ in answers_of(out).values()} == {"ok"}
    assert Run(str(out)).complete
    assert verify(str(out)).damage == []
    assert not (out / "scores.json").exists()
    before = committed(out)

    def refuse(*_):
        raise AssertionError("asked again")

    with JudgeEndpoint() as endpoint:
        summary = evaluate(settings_of(root, tiny_folder, out, endpoint), execute=refuse)
    assert summary["coverage"]["msvd_qa"]["counted"] == 8
    assert committed(out) == before


def test_a_judge_that_says_nothing_readable_is_under_the_floor(root, tiny_folder, tmp_path):
    with JudgeEndpoint(then=Say("a fine answer")) as endpoint, pytest.raises(BudgetError) as fault:
        evaluate(settings_of(root, tiny_folder, tmp_path / "run", endpoint), execute=in_process)
    coverage = fault.value.result["coverage"]["msvd_qa"]
    assert (coverage["answered"], coverage["counted"]) == (8, 0)
    assert coverage["outcomes"] == {"judge_unreadable": 8}
    assert all(s["value"] is None for s in fault.value.result["benchmarks"]["msvd_qa"])


def test_verdicts_on_older_answers_are_never_shown(root, tmp_path):
    model, out = tmp_path / "model", tmp_path / "run"
    save_tiny(model, seed=3)
    with JudgeEndpoint() as endpoint:
        evaluate(settings_of(root, model, out, endpoint), execute=in_process)
    shown = read_evaluation("it", str(out)).verdicts
    assert len(shown) == 8
    shutil.rmtree(model)
    save_tiny(model, seed=4)

    def stops(units, work):
        yield from in_process(units[:1], work)
        raise KeyboardInterrupt

    settings = settings_of(root, model, out)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, execute=stops)
    assert read_evaluation("it", str(out)).verdicts == {}
    summary = evaluate(settings, execute=in_process)
    assert summary["coverage"]["msvd_qa"]["waits_for_judge"]
    assert read_evaluation("it", str(out)).verdicts == {}


def test_the_same_answers_of_another_checkpoint_are_not_paid_again(root, tmp_path):
    """Teller does not look at weights: the new checkpoint says the same."""
    model, out = tmp_path / "model", tmp_path / "run"
    save_tiny(model, seed=3)
    with JudgeEndpoint() as endpoint:
        evaluate(settings_of(root, model, out, endpoint), execute=in_process)
        assert len(endpoint.calls) == 8
        first, before = scores_of(out), committed(out)
        shutil.rmtree(model)
        save_tiny(model, seed=4)
        evaluate(settings_of(root, model, out, endpoint), execute=in_process)
        assert len(endpoint.calls) == 8
    assert not before.keys() & committed(out).keys()
    assert scores_of(out) == first
    assert len(read_evaluation("it", str(out)).verdicts) == 8


def test_another_judge_judges_again_without_a_model(root, tiny_folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with JudgeEndpoint() as endpoint:
        evaluate(settings_of(root, tiny_folder, out, endpoint), execute=in_process)
    first = scores_of(out)
    with JudgeEndpoint(then=Say(good(verdict="no", score=1))) as endpoint:
        monkeypatch.setattr("raypipe.judge.stream._sender", local_sender)
        judge = JudgeSettings(**judge_of(endpoint, name="other", model="m2"))
        summary = judge_again(str(out), judge)
        assert len(endpoint.calls) == 8
    assert summary["benchmarks"]["msvd_qa"][0]["value"] == 0.0
    assert json.loads(scores_of(out)) == json.loads(json.dumps(summary))
    assert scores_of(out) != first
    assert {v.judge for v in read_evaluation("it", str(out)).all_verdicts()} == {"other"}
    assert verify(str(out)).damage == []


@pytest.mark.parametrize("by", ["evaluate", "judge"])
def test_the_plain_command_keeps_what_was_judged(root, tiny_folder, tmp_path, monkeypatch, by):
    out = tmp_path / "run"
    plain = settings_of(root, tiny_folder, out)
    evaluate(plain, execute=in_process)
    with JudgeEndpoint() as endpoint:
        if by == "judge":
            monkeypatch.setattr("raypipe.judge.stream._sender", local_sender)
            judge_again(str(out), JudgeSettings(**judge_of(endpoint, name="gpt")))
        else:
            evaluate(settings_of(root, tiny_folder, out, endpoint), execute=in_process)
    before = {name: (out / name).read_bytes() for name in ("scores.json", "settings.json", "judged.arrow")}
    assert json.loads(before["scores.json"])["benchmarks"]["msvd_qa"][0]["value"] == 100.0
    summary = evaluate(plain, execute=in_process)
    assert summary["coverage"]["msvd_qa"]["counted"] == 8
    assert {name: (out / name).read_bytes() for name in before} == before
    assert verify(str(out)).damage == []


def test_an_answered_run_with_nothing_to_judge_stays_a_judged_one(root, tmp_path, tiny_folder, monkeypatch):
    """Where no answer needs a verdict there is none on disk either."""
    monkeypatch.setattr("raypipe.evaluate.judging.wants_judge", lambda *_: False)
    out = tmp_path / "run"
    with JudgeEndpoint() as endpoint, pytest.raises(BudgetError):
        evaluate(settings_of(root, tiny_folder, out, endpoint), execute=in_process)
    before = (scores_of(out), (out / "settings.json").read_bytes())
    with pytest.raises(BudgetError):
        evaluate(settings_of(root, tiny_folder, out), execute=in_process)
    assert (scores_of(out), (out / "settings.json").read_bytes()) == before


def test_other_answers_are_no_longer_judged(root, tmp_path):
    model, out = tmp_path / "model", tmp_path / "run"
    save_tiny(model, seed=3)
    with JudgeEndpoint() as endpoint:
        evaluate(settings_of(root, model, out, endpoint), execute=in_process)
    shutil.rmtree(model)
    save_tiny(model, seed=4)
    summary = evaluate(settings_of(root, model, out), execute=in_process)
    assert summary["coverage"]["msvd_qa"]["waits_for_judge"]
    assert Run(str(out)).settings["settings"]["judge"] is None
    assert verify(str(out)).damage == []


def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_judge_that_is_down_is_named_and_nothing_is_lost(root, tiny_folder, tmp_path):
    out, port = tmp_path / "run", dead_port()
    down = {"base_url": f"http://127.0.0.1:{port}/v1", "tries": 1}
    settings = settings_of(root, tiny_folder, out).model_copy(update={"judge": JudgeSettings(**down)})
    with pytest.raises(ServiceError) as fault:
        evaluate(settings, execute=in_process)
    assert fault.value.exit_code == 5
    assert "the judge at 127.0.0.1" in fault.value.message
    assert "none of 8 calls; the last: connection broken" in fault.value.message
    assert "judge.base_url" in fault.value.remedy
    assert Run(str(out)).complete
    assert verify(str(out)).damage == []
    with JudgeEndpoint() as endpoint:
        summary = evaluate(settings_of(root, tiny_folder, out, endpoint), execute=in_process)
    assert summary["coverage"]["msvd_qa"]["counted"] == 8


def test_a_judge_that_went_down_halfway_is_named_where_verdicts_are_lacking(root, tiny_folder, tmp_path):
    out = tmp_path / "run"
    with JudgeEndpoint([Say()] * 4, then=Say("no idea")) as endpoint, pytest.raises(BudgetError):
        evaluate(settings_of(root, tiny_folder, out, endpoint), execute=in_process)
    settings = settings_of(root, tiny_folder, out, endpoint, coverage_floor=0.99)
    settings = settings.model_copy(update={"judge": settings.judge.model_copy(update={"tries": 1})})
    with pytest.raises(ServiceError, match="answered none of 4 calls"):
        evaluate(settings, execute=in_process)
    enough = settings.model_copy(update={"coverage_floor": 0.5})
    assert evaluate(enough, execute=in_process)["coverage"]["msvd_qa"]["counted"] == 4


def test_under_the_floor_it_is_said_what_is_lacking(root, tiny_folder, tmp_path):
    with JudgeEndpoint(then=Say("a fine answer")) as endpoint, pytest.raises(BudgetError) as fault:
        evaluate(settings_of(root, tiny_folder, tmp_path / "a", endpoint), execute=in_process)
    assert "(8 without a verdict of the judge: 8 judge_unreadable)" in fault.value.message
    assert "quarantine" not in fault.value.remedy
    torn = clip_root(tmp_path / "eval", ["c0", "c1"], questions=2)
    for clip in torn.rglob("c0.*"):
        clip.write_bytes(b"no video")
    with pytest.raises(BudgetError) as fault:
        evaluate(settings_of(torn, tiny_folder, tmp_path / "b"), execute=in_process)
    assert "(2 without an answer)" in fault.value.message
    assert "quarantine.jsonl" in fault.value.remedy


def local_sender(settings, use_ray):
    from raypipe.judge.client import Client

    return Client(settings)


def test_progress_tells_rates_outcomes_time_and_verdicts(root, tiny_folder, tmp_path):
    from raypipe.evaluate.plan import make_plan

    settings = settings_of(root, tiny_folder, tmp_path / "run", media_per_unit=1)
    units = make_plan(settings).units
    tally = Tally.start(units)
    tally.holds({units[0].id})
    tally.started = 100.0
    assert tally.line(101.0) == "2/8 questions"
    work = _work(settings, root)
    unit = units[1]
    answers = Answerer(Teller(), work.store)(unit, work.reader()(unit))
    tally.add(Done(unit.id, tuple(answers)))
    assert tally.line(102.0) == "4/8 questions, 1.0/s, 0.5 media/s, now 2 answered, 0 failed, 4 s left"
    tally.judged, tally.to_judge, tally.cost_usd = 1, 2, 0.25
    assert tally.line(102.0).endswith("4 s left, 1/2 judged, $0.25")


def _work(settings, root):
    from raypipe.evaluate.work import Work

    return Work(settings, str(root))
