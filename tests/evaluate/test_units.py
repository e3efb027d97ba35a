"""Units of an evaluation: planned by content, begun with the cuts of earlier tries, committed once."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError, ServiceError
from raypipe.evaluate import attempts
from raypipe.evaluate.certificate import Alone
from raypipe.evaluate.commit import predictions_in
from raypipe.evaluate.engine import UNCUT, Reply, Split
from raypipe.evaluate.local import LocalEngine
from raypipe.evaluate.plan import asking_for, make_plan, plan_units
from raypipe.evaluate.run import evaluate, in_process
from raypipe.evaluate.tree import open_tree
from raypipe.evaluate.work import Answerer, Work
from raypipe.model.build import Card
from raypipe.records import Outcome
from raypipe.report.listing import evaluation_text
from raypipe.report.run import report_runs
from raypipe.report.table import render
from raypipe.settings import EvaluateSettings
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.support.eval_media import asking, eval_root
from tests.support.eval_roots import made_up
from tests.support.evaluated import Teller, answers_of, clip_root, committed, hooked, made_by, scores_of
from tests.support.whole import differing


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return clip_root(tmp_path_factory.mktemp("eval"), [f"c{n}" for n in range(5)], questions=7)


def settings_of(root: Path, model: Path, out: Path, **more) -> EvaluateSettings:
    return asking(root, model, out, benchmarks=["msvd_qa"], media_per_unit=2, **more)


def test_a_medium_with_many_questions_is_cut_into_units_of_one_size(root, tiny_folder, tmp_path):
    settings = settings_of(root, tiny_folder, tmp_path, questions_per_unit=3)
    units = make_plan(settings).units
    assert sorted(u.count for u in units) == sorted([3, 3, 1] * 5)
    assert {u.media for u in units} == {1}
    ids = [q.id for u in units for g in u.groups for q in g.questions]
    assert len(set(ids)) == len(ids) == 35
    assert len({u.id for u in units}) == 15


def test_a_unit_holds_no_more_questions_than_it_may(root, tiny_folder, tmp_path):
    def counts(limit):
        settings = settings_of(root, tiny_folder, tmp_path, questions_per_unit=limit)
        return [u.count for u in make_plan(settings).units]

    assert sorted(counts(20)) == [7, 14, 14]
    assert counts(13) == [7] * 5


def test_units_do_not_depend_on_the_order_of_the_file(root, tiny_folder, tmp_path):
    benchmark, tree = benchmarks.load("msvd_qa"), open_tree(str(root))
    how = asking_for(benchmark, settings_of(root, tiny_folder, tmp_path), "w", Card())
    questions = benchmark.questions(root)
    mixed = random.Random(4).sample(questions, len(questions))
    assert plan_units("msvd_qa", questions, how, 2, 9, tree) == plan_units("msvd_qa", mixed, how, 2, 9, tree)


@pytest.mark.parametrize(
    "more",
    [
        {"protocol": "reference"},
        {"control": "repeat_frame"},
        {"max_new_tokens": 6},
        {"precision": "bf16"},
        {"sampling": {"frames": 4}},
        {"rendition": {"short_side": 64}},
    ],
)
def test_what_changes_an_answer_changes_the_units(root, tiny_folder, tmp_path, more):
    def ids(**more):
        return {u.id for u in make_plan(settings_of(root, tiny_folder, tmp_path, **more)).units}

    plain = ids()
    assert not plain & ids(**more)
    assert plain == ids(actors="2-4", batch=3, read_ahead_mib=5, coverage_floor=0.1)


def test_benchmarks_with_open_answers_come_first(root, tiny_folder, tmp_path):
    both = Path(shutil.copytree(root, tmp_path / "eval"))
    made_up(both, "gqa")
    units = make_plan(asking(both, tiny_folder, tmp_path / "run", benchmarks="all")).units
    order = [u.benchmark for u in units]
    assert order == sorted(order, key=["msvd_qa", "gqa"].index)
    assert set(order) == {"msvd_qa", "gqa"}


def test_the_certificate_takes_from_every_benchmark_in_turn(root, tiny_folder, tmp_path):
    plan = make_plan(settings_of(root, tiny_folder, tmp_path, certificate=4))
    assert len(plan.certified) == 4
    assert plan.certified == make_plan(settings_of(root, tiny_folder, tmp_path, certificate=4)).certified
    assert plan.certified < make_plan(settings_of(root, tiny_folder, tmp_path, certificate=9)).certified


@pytest.mark.parametrize("actors", [0, "0-2", "3-2", "a", "1-", -1])
def test_a_number_of_actors_that_is_none(root, tiny_folder, tmp_path, actors):
    with pytest.raises(ValueError, match="a number of at least 1"):
        settings_of(root, tiny_folder, tmp_path, actors=actors)
    assert settings_of(root, tiny_folder, tmp_path, actors="2-3").actor_range == (2, 3)
    assert settings_of(root, tiny_folder, tmp_path, actors=2).actor_range == (2, 2)


FILES = (("predictions", "arrow"), ("certificate", "json"))


class Cutting(Teller):
    """Has no room for more than one medium at once; on the first time it is ended after the second cut."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Split] = []
        self.dies = True

    def answer(self, shown, way, *, split=UNCUT, on_split=None):
        self.told.append(split)
        while len(split.media) < len(shown) and self.dies:
            split = replace(split, batch=4, media=(*split.media, len(split.media)))
            on_split(split)
            if len(split.media) == 2:
                raise KeyboardInterrupt
        return super().answer(shown, way)


def test_a_cut_is_kept_and_the_unit_begins_with_it_again(root, tiny_folder, tmp_path, monkeypatch):
    engine = Cutting()
    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *_: engine)
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, execute=in_process)
    assert committed(tmp_path / "run") == {}
    engine.dies = False
    evaluate(settings, execute=in_process)
    assert engine.told == [Split(), Split(4, (), (0, 1)), Split(), Split()]
    assert len(Store(settings.out).list("splits")) == 2


def test_the_first_of_two_workers_is_what_counts(root, tiny_folder, tmp_path):
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    work = Work(settings, str(root))
    unit = make_plan(settings).units[0]
    media = work.reader()(unit)
    first = Answerer(Teller(), work.store)(unit, media)

    class Other(Teller):
        def _reply(self, *_):
            return Reply("another", 1)

    assert Answerer(Other(), work.store)(unit, media) == first


def test_tries_are_counted_and_then_media_are_taken_alone(tmp_path):
    store = Store(str(tmp_path))
    for number in range(attempts.WHOLE):
        attempt = attempts.begin(store, "answer", "u", 3)
        assert (attempt.number, attempt.alone, attempt.harmful) == (number, False, frozenset())
    third = attempts.begin(store, "answer", "u", 3)
    assert third.alone
    third.begins(0)
    third.begins(1)
    fourth = attempts.begin(store, "answer", "u", 3)
    assert fourth.harmful == {1}
    fourth.begins(0)
    fourth.begins(2)
    assert attempts.begin(store, "answer", "u", 3).harmful == {1, 2}
    assert attempts.begin(store, "answer", "u", 3).harmful == {1, 2}
    with pytest.raises(ServiceError, match="died 6 times"):
        attempts.begin(store, "answer", "u", 3)
    assert attempts.begin(store, "read", "u", 3).number == 0
    attempts.forget(store)
    assert attempts.begin(store, "answer", "u", 3).number == 0


def test_a_medium_that_ends_its_worker_is_left_out_of_its_unit(root, tiny_folder, tmp_path):
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    work = Work(settings, str(root))
    unit = make_plan(settings).units[0]
    media = work.reader()(unit)
    attempt = attempts.Attempt(work.store, "attempts/answer/u", attempts.WHOLE, frozenset({0}))
    predictions = Answerer(Teller(), work.store)(unit, media, attempt)
    lost = {q.id for q in unit.groups[0].questions}
    assert {p.question_id for p in predictions if p.outcome is Outcome.FAILED} == lost
    assert {p.outcome for p in predictions if p.question_id not in lost} == {Outcome.OK}
    assert len(predictions) == unit.count


def test_media_taken_alone_give_what_they_give_together(root, tiny_folder, tmp_path):
    """The same rows in the same order, and the same certificate: chance kills leave no trace."""
    made = []
    for number in (0, attempts.WHOLE):
        settings = settings_of(root, tiny_folder, tmp_path / f"run{number}")
        work = Work(settings, str(root))
        unit = make_plan(settings).units[0]
        certified = frozenset(q.id for g in unit.groups for q in g.questions[:2])
        attempt = attempts.Attempt(work.store, "attempts/answer/u", number)
        Answerer(Teller(), work.store, certified)(unit, work.reader()(unit), attempt)
        made.append([made_by(tmp_path / f"run{number}")[f"{n}/{unit.id}.{s}"] for n, s in FILES])
    assert made[0] == made[1]


def test_a_medium_that_ends_its_reader_is_left_out_of_its_unit(root, tiny_folder, tmp_path):
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    work = Work(settings, str(root))
    unit = make_plan(settings).units[0]
    attempt = attempts.Attempt(work.store, "attempts/read/u", attempts.WHOLE, frozenset({1}))
    media = work.reader()(unit, attempt)
    predictions = Answerer(Teller(), work.store)(unit, media)
    lost = {q.id for q in unit.groups[1].questions}
    assert {p.question_id for p in predictions if p.outcome is Outcome.MEDIUM_BAD} == lost
    assert all("decoder_crashed" in p.detail for p in predictions if p.question_id in lost)


def test_a_stopped_run_goes_on_and_a_finished_one_asks_again_what_failed(root, tiny_folder, tmp_path):
    """What was committed is not made again, not even where an answer failed, until the run is whole."""
    settings = settings_of(root, tiny_folder, tmp_path / "run", coverage_floor=0.0)
    refuses = [True]

    class Refusing(Teller):
        def _reply(self, shown, prompt, way):
            if refuses[0] and "0 in c1" in prompt:
                return Reply("", 0, "out of memory")
            return super()._reply(shown, prompt, way)

    def executed(count):
        def execute(units, work):
            answerer = Answerer(Refusing(), work.store)
            yield from in_process_with(answerer, units[:count], work)
            if count < len(units):
                raise KeyboardInterrupt

        return execute

    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, execute=executed(2))
    half = committed(tmp_path / "run")
    evaluate(settings, execute=executed(9))
    assert half.items() <= committed(tmp_path / "run").items()
    assert [o for _, o, _ in answers_of(tmp_path / "run").values()].count("failed") == 1
    refuses[0] = False
    whole = committed(tmp_path / "run")
    evaluate(settings, execute=executed(9))
    assert len(whole.items() - committed(tmp_path / "run").items()) == 1
    assert {o for _, o, _ in answers_of(tmp_path / "run").values()} == {"ok"}


def in_process_with(answerer, units, work):
    from raypipe.evaluate.work import Done

    reader = work.reader()
    for unit in units:
        yield Done(unit.id, tuple(answerer(unit, reader(unit))))


def test_hooked_work_makes_what_unhooked_makes(root, tiny_folder, tmp_path, monkeypatch):
    """So that the fault tests speak of the real thing."""
    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *_: Teller())
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    evaluate(settings, execute=in_process)
    made, scores = made_by(tmp_path / "run"), scores_of(tmp_path / "run")
    again = settings.model_copy(update={"out": str(tmp_path / "hooked")})
    evaluate(again, execute=hooked(tmp_path / "marks", in_process))
    assert differing(made_by(tmp_path / "hooked"), made) == []
    assert scores_of(tmp_path / "hooked") == scores


def test_two_drivers_do_not_meet(root, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *_: Teller())
    settings = settings_of(root, tiny_folder, tmp_path / "run")

    def second(units, work):
        with pytest.raises(ServiceError, match="another driver is writing"):
            evaluate(settings, execute=in_process)
        return in_process(units, work)

    evaluate(settings, execute=second)


def test_a_missing_key_is_refused_before_any_model_is_loaded(root, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("RAYPIPE_NO_SUCH_KEY", raising=False)
    loaded = []
    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *a: loaded.append(a))
    judge = {"base_url": "https://judge.example/v1", "key_env": "RAYPIPE_NO_SUCH_KEY"}
    with pytest.raises(RequestError, match="RAYPIPE_NO_SUCH_KEY"):
        evaluate(settings_of(root, tiny_folder, tmp_path / "run", judge=judge), execute=in_process)
    assert loaded == []
    assert not (tmp_path / "run").exists()


def test_reading_media_loads_no_model():
    script = (
        "import sys, raypipe.evaluate.read, raypipe.evaluate.work, raypipe.evaluate.plan\n"
        "print([m for m in ('torch', 'transformers', 'ray') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_the_certificate_lists_what_differs(root, tiny_folder, tmp_path, monkeypatch, capsys):
    class Rounding(Teller):
        """Answers one question in another way when it is asked alone, and cannot answer another one."""

        def alone(self, shown, prompt, way):
            if "3 in c2" in prompt:
                return Alone(Reply("another", 2), ())
            if "4 in c2" in prompt:
                return Alone(Reply("", 0, "no room"), ())
            return super().alone(shown, prompt, way)

    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *_: Rounding())
    settings = settings_of(root, tiny_folder, tmp_path / "run", certificate=35)
    summary = evaluate(settings, execute=in_process)
    found = summary["certificate"]
    assert (found["asked"], found["equal"], len(found["failed"])) == (34, 33, 1)
    (difference,) = found["differences"]
    answers = {p.question_id: p for p in predictions_in(Run.open(settings.out))}
    assert difference["alone"] == "another"
    assert difference["batched"] == answers[difference["question_id"]].text
    assert "3 in c2" in answers[difference["question_id"]].prompt
    assert json.loads(scores_of(tmp_path / "run"))["certificate"] == json.loads(json.dumps(found))
    assert verify(settings.out).damage == []
    said = "33 of 34 answers are the same made one at a time; 1 could not be made again"
    assert said in evaluation_text(summary, settings.out)
    report = report_runs([("it", settings.out)], out=str(tmp_path / "report"))
    assert said in render(report)
    page = (tmp_path / "report/report.html").read_text()
    assert said in page
    assert '<td class="text">another</td>' in page


def test_without_a_certificate_nothing_is_asked_again(root, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *_: Teller())
    monkeypatch.setattr(Teller, "alone", None)
    settings = settings_of(root, tiny_folder, tmp_path / "run", certificate=0)
    assert "certificate" not in evaluate(settings, execute=in_process)
    report = report_runs([("it", settings.out)], out=str(tmp_path / "report"))
    assert report["evaluations"][0]["certificate"] is None
    assert "Certificate" not in (tmp_path / "report/report.html").read_text()


def test_frames_are_made_ready_where_they_are_read(tiny_folder, tmp_path, monkeypatch):
    """The model's own process has no picture to decode, and its answers are the same."""
    from raypipe.evaluate import run

    root = eval_root(tmp_path / "eval")
    seen = []
    real = LocalEngine.answer

    def answer(self, shown, *rest, **more):
        seen.extend(one.frames[0][:14] for one in shown)
        return real(self, shown, *rest, **more)

    monkeypatch.setattr(LocalEngine, "answer", answer)
    settings = asking(root, tiny_folder, tmp_path / "run", protocol="reference")
    evaluate(settings, execute=in_process)
    assert set(seen) == {b"raypipe frame "}
    wanted = made_by(tmp_path / "run")
    seen.clear()
    monkeypatch.setattr(run, "look_of", lambda _: None)
    shutil.rmtree(settings.out)
    evaluate(settings, execute=in_process)
    assert b"raypipe frame " not in seen
    assert differing(made_by(tmp_path / "run"), wanted) == []
