"""verify of an evaluation: scores and verdicts are what was written, and a stopped one cries no damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe import cli
from raypipe.errors import ServiceError
from raypipe.evaluate.run import evaluate, in_process, judge_again
from raypipe.judge.client import Client
from raypipe.records import VERDICT_SCHEMA
from raypipe.settings import EvaluateSettings, JudgeSettings
from raypipe.store.files import Store
from raypipe.store.shards import encode
from raypipe.store.verify import verify
from raypipe.store.verify_evaluate import RECORD
from tests.support.eval_media import asking
from tests.support.evaluated import Teller, clip_root
from tests.support.judge_endpoint import JudgeEndpoint, Refuse, Say, good
from tests.support.kills import forked
from tests.support.tampered import damage
from tests.support.tiny import save_tiny

QUESTIONS = 4


@pytest.fixture(autouse=True)
def _engine(monkeypatch):
    monkeypatch.setattr("raypipe.evaluate.work.open_engine", lambda *_: Teller())
    monkeypatch.setattr("raypipe.judge.stream._sender", lambda settings, use_ray: Client(settings))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return clip_root(tmp_path_factory.mktemp("eval"), ["a", "b"], questions=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture
def endpoint():
    with JudgeEndpoint() as endpoint:
        yield endpoint


def judge_of(endpoint: JudgeEndpoint, **more) -> JudgeSettings:
    return JudgeSettings(
        base_url=endpoint.base_url, key_env="RAYPIPE_TEST_NO_KEY", **{"concurrency": 1, **more}
    )


def settings_of(root: Path, model: Path, out: Path, endpoint: JudgeEndpoint | None) -> EvaluateSettings:
    judge = judge_of(endpoint).model_dump() if endpoint else None
    return asking(root, model, out, benchmarks=["msvd_qa"], judge=judge, certificate=0)


@pytest.fixture
def run(root, model, tmp_path, endpoint) -> Path:
    """A finished evaluation with its judge."""
    out = tmp_path / "run"
    evaluate(settings_of(root, model, out, endpoint), execute=in_process)
    return out


def segments_of(run: Path) -> list[Path]:
    found = sorted((run / "verdicts").glob("*.arrow"))
    assert found
    return found


def view_with(run: Path, **changed) -> bytes:
    rows = pa.ipc.open_file(str(run / "judged.arrow")).read_all().to_pylist()
    return encode(pa.Table.from_pylist([{**row, **changed} for row in rows], schema=VERDICT_SCHEMA))


def resealed(run: Path) -> None:
    """The record vouches for what lies there, as if raypipe had written it so."""
    from raypipe.store.run import Run
    from raypipe.store.verify_evaluate import seal_scores

    seal_scores(Run.open(str(run)), (run / "scores.json").read_bytes())


def test_a_judged_evaluation_is_proved(run, capsys):
    proof = verify(str(run))
    assert (proof.damage, proof.unproved) == ([], "")
    assert cli.main(["verify", str(run)]) == 0
    assert "not proved" not in capsys.readouterr().out
    names = [entry["path"] for entry in json.loads((run / RECORD).read_text())["files"]]
    assert names == ["scores.json", "judged.arrow", *(f"verdicts/{f.name}" for f in segments_of(run))]


def test_an_evaluation_without_a_judge_is_proved(root, model, tmp_path):
    evaluate(settings_of(root, model, tmp_path / "run", None), execute=in_process)
    proof = verify(str(tmp_path / "run"))
    assert (proof.damage, proof.unproved) == ([], "")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _edited(run: Path) -> None:
    body = json.loads((run / "scores.json").read_text())
    body["benchmarks"]["msvd_qa"][0]["value"] = 99.0
    (run / "scores.json").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


def _flipped(run: Path) -> None:
    data = (run / RECORD).read_text()
    at = data.index('"manifest_sha256": "') + 25
    (run / RECORD).write_text(data[:at] + ("0" if data[at] != "0" else "1") + data[at + 1 :])


TAMPERED = {
    "scores edited": (_edited, "scores.json: content differs from its hash"),
    "scores gone": (lambda run: (run / "scores.json").unlink(), "scores.json: missing"),
    "view cut": (lambda run: _cut(run / "judged.arrow"), "judged.arrow: content differs from its hash"),
    "view gone": (lambda run: (run / "judged.arrow").unlink(), "judged.arrow: missing"),
    "view edited": (
        lambda run: (run / "judged.arrow").write_bytes(view_with(run, correct=False)),
        "judged.arrow: content differs from its hash",
    ),
    "segment cut": (lambda run: _cut(segments_of(run)[0]), "is damaged"),
    "segment gone": (lambda run: segments_of(run)[0].unlink(), ".arrow: missing"),
    "verdicts gone": (lambda run: shutil.rmtree(run / "verdicts"), ".arrow: missing"),
    "strange segment": (
        lambda run: (run / "verdicts" / "x.arrow").write_bytes(encode(pa.table({"a": [1]}))),
        "verdicts/x.arrow: shard",
    ),
    "record edited": (_flipped, f"{RECORD}: not as it was written"),
    "record cut": (lambda run: _cut(run / RECORD), f"{RECORD}: not as it was written"),
    "record no object": (lambda run: (run / RECORD).write_text("[]\n"), f"{RECORD}: not as it was written"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_scores_and_verdicts_are_found(root, model, run, endpoint, name):
    tamper, said = TAMPERED[name]
    scores = (run / "scores.json").read_bytes()
    tamper(run)
    assert any(said in line for line in damage(run)), damage(run)
    assert cli.main(["verify", str(run)]) == 6
    for file in (run / "judged.arrow", *(run / "verdicts").glob("*.arrow")):
        file.unlink(missing_ok=True)  # what the remedy advises, at its widest
    (run / "commit.json").unlink()
    evaluate(settings_of(root, model, run, endpoint), execute=in_process)
    proof = verify(str(run))
    assert (proof.damage, proof.unproved) == ([], "")
    assert (run / "scores.json").read_bytes() == scores


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"question_id": "none"}, "judged.arrow: 1 questions that the run does not have, such as none"),
        ({"reply": "another"}, f"judged.arrow: {QUESTIONS} of {QUESTIONS} verdicts are not in verdicts/"),
    ],
)
def test_verdicts_that_nobody_gave_are_found_though_every_hash_is_right(run, changed, said):
    (run / "judged.arrow").write_bytes(view_with(run, **changed))
    resealed(run)
    assert damage(run) == [said]


def test_verdicts_where_none_were_are_found(root, model, run, tmp_path):
    evaluate(settings_of(root, model, tmp_path / "bare", None), execute=in_process)
    shutil.copytree(run / "verdicts", tmp_path / "bare" / "verdicts")
    shutil.copy(run / "judged.arrow", tmp_path / "bare" / "judged.arrow")
    assert damage(tmp_path / "bare") == [f"judged.arrow: not named in {RECORD}"]


def test_a_run_of_an_older_version_is_told_that_its_scores_are_not_proved(run, capsys):
    (run / RECORD).unlink()
    assert cli.main(["verify", str(run)]) == 0
    assert f"scores not proved: not vouched for by {RECORD}" in capsys.readouterr().out
    assert cli.main(["verify", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unproved"]
    _cut(segments_of(run)[0])
    assert cli.main(["verify", str(run)]) == 6


def test_a_judge_that_stopped_leaves_proved_scores(run):
    with JudgeEndpoint(then=Refuse(401)) as other, pytest.raises(ServiceError):
        judge_again(str(run), judge_of(other, model="other"))
    proof = verify(str(run))
    assert (proof.damage, proof.unproved) == ([], "")


def test_small_segments_that_were_put_together_are_no_loss(run):
    (whole,) = segments_of(run)
    part = whole.with_name(f"part-{whole.name}")
    shutil.copy(whole, part)
    resealed(run)
    part.unlink()
    assert damage(run) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("harm", ["kill", "power"])
def test_stopped_between_the_writes_nothing_is_damaged_and_the_same_command_proves_it(
    run, tmp_path, monkeypatch, harm
):
    for name in ("fsync", "fdatasync"):  # see kills._Disk
        monkeypatch.setattr(os, name, lambda _: None)
    before = tmp_path / "before"
    shutil.copytree(run, before)

    def verdict(_: dict[str, str]) -> Say:
        return Say(good(verdict="no", score=0))

    with JudgeEndpoint(then=verdict) as other:

        def again() -> None:
            judge_again(str(run), judge_of(other, model="other"))

        def anew() -> None:
            shutil.rmtree(run)
            shutil.copytree(before, run)

        code, operations = forked(again)
        assert code == 0
        wanted = (run / "scores.json").read_bytes()
        assert wanted != (before / "scores.json").read_bytes()
        first = next(n for n, said in enumerate(operations, 1) if said.endswith(f" {RECORD}"))
        unproved = set()
        for at in range(first, len(operations) + 1):
            anew()
            code, log = forked(again, at, harm)
            assert code == -signal.SIGKILL
            said = f"{harm} at operation {at}, {log[-1]}"
            proof = verify(str(run))
            assert proof.damage == [], said
            unproved.add(bool(proof.unproved))
            code, _ = forked(again)
            assert code == 0, said
            proof = verify(str(run))
            assert (proof.damage, proof.unproved) == ([], ""), said
            assert (run / "scores.json").read_bytes() == wanted, said
        assert unproved == {True, False}


def test_answers_of_another_checkpoint_take_the_record_back(root, tmp_path, endpoint):
    model, out = tmp_path / "model", tmp_path / "run"
    save_tiny(model, seed=3)
    evaluate(settings_of(root, model, out, endpoint), execute=in_process)
    shutil.rmtree(model)
    save_tiny(model, seed=4)

    def stops(units, work):
        yield from in_process(units[:1], work)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(settings_of(root, model, out, endpoint), execute=stops)
    assert not Store(str(out)).exists(RECORD)
    with JudgeEndpoint(then=Refuse(401)) as other:
        settings = settings_of(root, model, out, other)
        settings = settings.model_copy(update={"judge": judge_of(other, model="other")})
        with pytest.raises(ServiceError):
            evaluate(settings, execute=in_process)
    proof = verify(str(out))
    assert (proof.damage, proof.unproved) == ([], "not written yet")
