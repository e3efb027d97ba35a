"""Run folders: who may continue them, and when they count as complete."""

import json
from pathlib import Path

import pytest

from raypipe.errors import DamageError, RequestError
from raypipe.records import Reason, Rejection
from raypipe.settings import DatasetSettings, DecodeLimits, EvaluateSettings, Sampling
from raypipe.store.run import Manifest, Run


def settings(out: Path, **more) -> DatasetSettings:
    return DatasetSettings(name="d", data_root="/data", annotations=["a.json"], out=str(out), **more)


def start(out: Path, **more) -> Run:
    return Run.start(str(out), "prepare", settings(out, **more))


def test_the_same_work_continues(tmp_path):
    before = start(tmp_path).settings
    now = start(tmp_path, error_budget=0.5, concurrency=7, limits=DecodeLimits(timeout_s=3)).settings
    assert now["identity"] == before["identity"]
    assert (now["settings"]["error_budget"], now["settings"]["concurrency"]) == (0.5, 7), (
        "the last way counts"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": Sampling(frames=4)}, "sampling"),
        ({"decoder": "decord"}, "decoder"),
        ({"media_per_shard": 9, "decoder": "decord"}, "decoder, media_per_shard"),
    ],
)
def test_other_work_is_refused_and_named(tmp_path, change, named):
    start(tmp_path)
    with pytest.raises(RequestError) as fault:
        start(tmp_path, error_budget=0.5, **change)
    assert fault.value.exit_code == 2
    assert f"(differs in: {named})" in fault.value.message
    assert "error_budget" not in fault.value.message


def test_another_verb_is_refused(tmp_path):
    start(tmp_path)
    with pytest.raises(RequestError, match="holds a run of prepare, and this is one of evaluate"):
        Run.start(str(tmp_path), "evaluate", EvaluateSettings(model="m", eval_root="e", out=str(tmp_path)))
    with pytest.raises(RequestError, match="is a run of prepare, and this takes one of train"):
        Run.open(str(tmp_path), "train")


def test_it_counts_when_its_commit_record_is_there(tmp_path):
    with pytest.raises(RequestError, match="not a run folder"):
        Run.open(str(tmp_path))
    run = start(tmp_path)
    assert not run.complete
    with pytest.raises(RequestError, match="not finished"):
        Run.open(str(tmp_path), "prepare")
    run.commit(Manifest("prepare", [], {}), [Rejection("b", "sample", Reason.BAD_TAGS, "ü\nx", "p")])
    assert Run.open(str(tmp_path), "prepare").complete
    assert run.quarantine() == [
        {"id": "b", "what": "sample", "reason": "bad_tags", "detail": "ü\nx", "path": "p"}
    ]
    run.reopen()
    assert not run.complete


def test_the_quarantine_is_in_an_order_of_its_own(tmp_path):
    rows = [Rejection(i, "sample", Reason.BAD_TAGS, "") for i in "cab"]
    texts = []
    for place, order in enumerate((rows, rows[::-1])):
        start(tmp_path / str(place)).commit(Manifest("prepare", [], {}), order)
        texts.append((tmp_path / str(place) / "quarantine.jsonl").read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe{}"])
def test_a_damaged_record_is_damage_not_a_traceback(tmp_path, damage):
    run = start(tmp_path)
    run.commit(Manifest("prepare", [], {}))
    for name in ("settings.json", "manifest.json", "commit.json"):
        (tmp_path / name).write_bytes(damage)
    for read in ("settings", "manifest", "commit_record"):
        with pytest.raises(DamageError):
            getattr(run, read)


def test_settings_are_whole_and_resolved(tmp_path):
    start(tmp_path)
    stored = json.loads((tmp_path / "settings.json").read_text())["settings"]
    assert stored["sampling"] == Sampling().model_dump()
    assert stored["limits"]["tries"] == 2


def test_a_folder_of_another_format_is_refused_by_name(tmp_path):
    run = start(tmp_path)
    body = {**run.settings, "schema_version": 1, "raypipe": "0.0.9"}
    del body["sha256"]
    (tmp_path / "settings.json").write_text(json.dumps(body))
    for again in (lambda: start(tmp_path), lambda: Run.open(str(tmp_path))):
        with pytest.raises(RequestError, match=r"made by raypipe 0\.0\.9 in format 1"):
            again()
