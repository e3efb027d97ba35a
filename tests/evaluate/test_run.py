"""Evaluations in this process: every question has one outcome, and nothing is asked twice."""

import shutil
from pathlib import Path

import pytest

from raypipe.errors import BudgetError, RequestError
from raypipe.evaluate import local
from raypipe.evaluate.forecast import forecast
from raypipe.evaluate.run import evaluate, in_process
from raypipe.evaluate.work import Answerer
from raypipe.records import PREDICTION_SCHEMA, THUMBS_SCHEMA, Outcome, Prediction, Reason, predictions_of
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.support import reference_data
from tests.support.clips import number_of, write_clip
from tests.support.eval_media import IMAGES, VIDEOS, asking, eval_root
from tests.support.tiny import save_tiny


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return eval_root(tmp_path_factory.mktemp("eval"))


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "eval"))


@pytest.fixture
def model(tiny_folder) -> Path:
    return tiny_folder


def answered(settings) -> list[Prediction]:
    evaluate(settings, execute=in_process)
    return predictions_in(settings.out)


def predictions_in(out: str) -> list[Prediction]:
    return predictions_of(Ledger(Store(out), "predictions", PREDICTION_SCHEMA).rows())


def texts(predictions) -> dict[str, str]:
    return {p.question_id: p.text for p in predictions}


def thumbs(out: str) -> dict[str, list[int]]:
    rows = Ledger(Store(out), "thumbs", THUMBS_SCHEMA).rows()
    return {Path(r["medium"]).stem: [number_of(f) for f in r["frames"]] for r in rows}


def states(out: str) -> dict[str, tuple[int, bytes]]:
    store = Store(out)
    names = store.list("predictions")
    return {n: (Path(store.path(n)).stat().st_mtime_ns, store.read(n)) for n in names}


def test_each_question_has_one_outcome(root, model, tmp_path):
    told = []
    settings = asking(root, model, tmp_path / "run")
    summary = evaluate(settings, execute=in_process, progress=lambda t: told.append(t.line()))
    predictions = predictions_in(settings.out)
    assert len({p.question_id for p in predictions}) == len({p.key for p in predictions}) == 8
    assert {p.outcome for p in predictions} <= {Outcome.OK, Outcome.EMPTY}
    assert len(set(texts(predictions).values())) > 2  # the answers depend on what is asked and shown
    assert told[-1].startswith("8/8 questions, ")
    assert told[-1].endswith("8 answered, 0 failed")
    assert {n: c["questions"] for n, c in summary["coverage"].items()} == {"msvd_qa": 3, "pope": 5}
    assert summary["coverage"]["msvd_qa"]["waits_for_judge"]
    assert summary["benchmarks"].keys() == {"pope"}
    assert thumbs(settings.out)["a"] == [0, 1, 3, 4, 6, 7, 9, 11]
    assert verify(settings.out).damage == []


def test_a_missing_medium_is_counted_and_the_floor_holds(root, model, tmp_path):
    (root / VIDEOS / "a.mp4").unlink()
    (root / IMAGES / "kite.jpg").write_bytes(b"no image")
    settings = asking(root, model, tmp_path / "run")
    with pytest.raises(BudgetError) as fault:
        evaluate(settings, execute=in_process)
    assert fault.value.exit_code == 3
    assert "msvd_qa 1 of 3; pope 2 of 5" in fault.value.message
    by_outcome = [p for p in predictions_in(settings.out) if p.outcome is Outcome.MEDIUM_BAD]
    assert len(by_outcome) == 5
    assert all(p.text == "" and p.detail for p in by_outcome)
    quarantine = Run.open(settings.out, "evaluate").quarantine()
    assert (
        sorted(r["reason"] for r in quarantine) == [Reason.MEDIA_MISSING] * 2 + [Reason.MEDIA_UNREADABLE] * 3
    )
    assert {r["id"] for r in quarantine} == {p.question_id for p in by_outcome}
    assert verify(settings.out).damage == []
    low = asking(root, model, tmp_path / "run", coverage_floor=0.2)
    assert evaluate(low, execute=in_process)["coverage"]["pope"]["share"] == pytest.approx(0.4)


def test_a_repaired_medium_is_asked_about_and_nothing_else(root, model, tmp_path):
    good = (root / VIDEOS / "a.mp4").read_bytes()
    (root / VIDEOS / "a.mp4").unlink()
    settings = asking(root, model, tmp_path / "run", coverage_floor=0.0)
    answered(settings)
    before = states(settings.out)
    (root / VIDEOS / "a.mp4").write_bytes(good)
    predictions = answered(settings)
    assert {p.outcome for p in predictions} <= {Outcome.OK, Outcome.EMPTY}
    after = states(settings.out)
    assert len(set(after.items()) & set(before.items())) == len(before) - 1
    assert verify(settings.out).damage == []
    assert texts(predictions) == texts(answered(asking(root, model, tmp_path / "whole")))


def test_a_medium_repaired_to_the_same_size_is_asked_about_with_retry_bad(root, model, tmp_path):
    good = (root / VIDEOS / "a.mp4").read_bytes()
    (root / VIDEOS / "a.mp4").write_bytes(bytes(len(good)))
    out = tmp_path / "run"
    answered(asking(root, model, out, coverage_floor=0.0))
    before = states(str(out))
    (root / VIDEOS / "a.mp4").write_bytes(good)
    left = answered(asking(root, model, out, coverage_floor=0.0))
    assert Outcome.MEDIUM_BAD in {p.outcome for p in left}
    assert states(str(out)) == before
    again = asking(root, model, out, retry_bad=True)
    assert forecast(again)["totals"]["answered"] < len(left)
    predictions = answered(again)
    assert {p.outcome for p in predictions} <= {Outcome.OK, Outcome.EMPTY}
    assert len(set(states(str(out)).items()) & set(before.items())) == len(before) - 1
    assert verify(str(out)).damage == []
    assert texts(predictions) == texts(answered(asking(root, model, tmp_path / "whole")))
    done = states(str(out))
    answered(again)
    assert states(str(out)) == done


def test_a_finished_run_asks_nothing(root, model, tmp_path):
    settings = asking(root, model, tmp_path / "run")
    answered(settings)
    before = states(settings.out)

    def refuse(*_):
        raise AssertionError("asked again")

    evaluate(settings, execute=refuse)
    assert states(settings.out) == before


def test_a_killed_run_goes_on_where_it_was(root, model, tmp_path, monkeypatch):
    whole = answered(asking(root, model, tmp_path / "whole"))
    settings, commits = asking(root, model, tmp_path / "run"), []
    real = Answerer._commit

    def dies_at_the_third(self, unit, *rest):
        if len(commits) == 2:
            raise KeyboardInterrupt
        commits.append(unit.id)
        return real(self, unit, *rest)

    monkeypatch.setattr(Answerer, "_commit", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, execute=in_process)
    monkeypatch.undo()
    half = states(settings.out)
    assert len(half) == len(commits) == 2
    assert not Run(settings.out).complete
    assert texts(answered(settings)) == texts(whole)
    assert half.items() <= states(settings.out).items()
    assert verify(settings.out).damage == []


def test_other_weights_at_the_same_path_are_asked_again(root, tmp_path):
    save_tiny(tmp_path / "model", seed=3)
    settings = asking(root, tmp_path / "model", tmp_path / "run")
    first, names = answered(settings), set(states(settings.out))
    shutil.rmtree(tmp_path / "model")
    save_tiny(tmp_path / "model", seed=4)
    second = answered(settings)
    assert len(second) == 8
    assert not names & set(states(settings.out))
    assert {p.key for p in first}.isdisjoint(p.key for p in second)
    assert texts(first) != texts(second)
    assert len(Store(settings.out).list("thumbs")) == len(states(settings.out))
    assert verify(settings.out).damage == []


def test_what_the_device_refused_is_asked_again(root, model, tmp_path, monkeypatch):
    settings = asking(root, model, tmp_path / "run", coverage_floor=0.0)
    refused = []

    def out_of_memory(*_):
        refused.append(1)
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(local, "greedy", out_of_memory)
    assert {p.outcome for p in answered(settings)} == {Outcome.FAILED}
    assert refused
    assert {r["reason"] for r in Run.open(settings.out).quarantine()} == {Reason.GENERATION_FAILED}
    monkeypatch.undo()
    assert {p.outcome for p in answered(settings)} <= {Outcome.OK, Outcome.EMPTY}
    assert verify(settings.out).damage == []


def test_repeat_frame_shows_one_frame(root, model, tmp_path):
    plain = answered(asking(root, model, tmp_path / "plain"))
    settings = asking(root, model, tmp_path / "control", control="repeat_frame")
    control = answered(settings)
    shown = thumbs(settings.out)
    assert len(set(shown["a"])) == len(set(shown["b"])) == 1
    assert len(shown["a"]) == 8
    assert len(set(thumbs(str(tmp_path / "plain"))["a"])) == 8
    assert {p.key for p in plain}.isdisjoint(p.key for p in control)
    images = {p.question_id: p.text for p in plain if p.benchmark == "pope"}
    assert images.items() <= texts(control).items()  # images are shown as they are


def test_the_batch_size_changes_no_answer(root, model, tmp_path):
    made = [
        answered(asking(root, model, tmp_path / f"run{n}", batch=n, media_per_unit=8, max_new_tokens=12))
        for n in (1, 8)
    ]
    assert texts(made[0]) == texts(made[1])
    assert [p.new_tokens for p in made[0]] == [p.new_tokens for p in made[1]]


def test_the_reference_protocol_asks_with_its_own_template(root, model, tmp_path):
    seen = []

    def note(units, work):
        seen.extend((u.benchmark, u.asking.template, u.asking.aspect) for u in units)
        return in_process(units, work)

    for protocol in ("corrected", "reference"):
        evaluate(asking(root, model, tmp_path / protocol, protocol=protocol), execute=note)
    assert set(seen) == {("msvd_qa", "v1", "pad"), ("pope", "v1", "pad"), ("msvd_qa", "llava_v1", "pad")}
    keys = [{p.key for p in predictions_in(str(tmp_path / n))} for n in ("corrected", "reference")]
    assert len(keys[0] - keys[1]) == 3  # the video questions; those of pope are asked the same way


def test_a_limit_takes_the_first_questions(root, model, tmp_path):
    settings = asking(root, model, tmp_path / "run", benchmarks=["pope"], limit=2)
    assert [p.row_id for p in sorted(answered(settings), key=lambda p: p.row_id)] == ["1", "2"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"benchmarks": ["pop"]}, "no benchmark is called 'pop'"),
        ({"benchmarks": ["gqa"]}, "gqa: no such file"),
        ({"eval_root": "/no/such/folder"}, "no such eval root"),
        ({"model": "/no/such/model"}, "no such model folder"),
    ],
)
def test_wrong_requests_leave_no_folder(root, model, tmp_path, more, said):
    with pytest.raises(RequestError, match=said):
        evaluate(asking(root, model, tmp_path / "run").model_copy(update=more), execute=in_process)
    assert not (tmp_path / "run").exists()


def test_all_runs_what_has_data_and_names_what_has_not(root, model, tmp_path):
    settings = asking(root, model, tmp_path / "run", benchmarks="all")
    summary = evaluate(settings, execute=in_process)
    assert summary["coverage"].keys() == {"msvd_qa", "pope"}
    assert "gqa" in summary["missing_benchmarks"]


def test_a_clip_of_another_kind_is_read_as_it_is(root, model, tmp_path):
    """A .gif and an .avi in place of the .mp4."""
    (root / VIDEOS / "b.mp4").unlink()
    write_clip(root / VIDEOS / "b.avi", frames=9, codec="mpeg4")
    predictions = answered(asking(root, model, tmp_path / "run", benchmarks=["msvd_qa"]))
    assert {Path(p.medium).name for p in predictions} == {"a.mp4", "b.avi"}


def test_the_real_tree(model, tmp_path):
    real = reference_data("real") / "eval"
    settings = asking(real, model, tmp_path / "run", benchmarks="all", coverage_floor=0.0)
    summary = evaluate(settings, execute=in_process)
    found = {n: (c["answered"], c["questions"]) for n, c in summary["coverage"].items()}
    assert found == {"msvd_qa": (3, 4), "activitynet_qa": (3, 3), "tgif_qa": (2, 2)}
    assert summary["coverage"]["msvd_qa"]["outcomes"]["medium_bad"] == 1
    assert verify(settings.out).damage == []
