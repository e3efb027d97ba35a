"""What a run folder tells of its run, with no cluster and no Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raypipe import cli
from raypipe.ending import Command
from raypipe.errors import RaypipeError, ServiceError
from raypipe.prepare import work
from raypipe.status.logs import follow
from raypipe.status.look import status_of
from raypipe.status.show import render, render_many
from raypipe.store import recording as module
from raypipe.store.files import Store
from raypipe.store.process import Process
from raypipe.store.recording import now, recording
from raypipe.terminal import Step
from tests.report.runs import train_run, trained_and_untrained
from tests.support.clips import data_root
from tests.support.kills import forked
from tests.support.prepared import NoSandbox, dataset, prepared

COMMAND = Command(("prepare", "set.yaml", "out=run"))
MORE = {"media_per_shard": 1}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)


def drawn(folder: Path) -> Path:
    data_root(folder / "data")
    return folder / "data"


def stopped_after(units: int, root: Path, out: Path, fault: BaseException) -> None:
    """A prepare run that ends with a fault once so many units are committed."""
    from raypipe.prepare.run import prepare

    def some(refs, how):
        for number, ref in enumerate(refs):
            if number == units:
                raise fault
            yield how(ref)

    with recording(str(out), COMMAND), Step("prepare drawn") as step:
        prepare(dataset(root, out, **MORE), progress=step.lines, execute=some)


def test_a_run_from_its_stop_to_its_end(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        stopped_after(1, root, out, KeyboardInterrupt())
    found = status_of(str(out))
    assert (found["state"], found["exit_code"], found["committed"]) == ("stopped", 4, False)
    done, planned = found["progress"]["units"]
    assert done == 1 < planned
    assert found["again"] == ["raypipe prepare set.yaml out=run"]
    with pytest.raises(ServiceError):
        stopped_after(1, root, out, ServiceError("the disk is full", "free space"))
    found = status_of(str(out))
    assert (found["state"], found["exit_code"], found["message"]) == ("failed", 5, "the disk is full")
    assert found["progress"]["units"][0] == 2
    with recording(str(out), COMMAND), Step("prepare drawn"):
        prepared(root, out, **MORE)
    found = status_of(str(out))
    assert (found["state"], found["exit_code"], found["committed"]) == ("finished", 0, True)
    assert found["progress"]["units"] == [planned, planned]
    assert found["progress"]["ok"] == found["totals"]["ok"] > 0
    assert [row["state"] for row in found["starts"]] == ["stopped", "failed", "finished"]
    capsys.readouterr()
    assert cli.main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("prepare drawn: finished ")
    assert f"{planned} of {planned} units" in said
    assert "failed, exit code 5" in said
    assert cli.main(["status", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["starts"][1]["message"] == "the disk is full"


def test_a_start_that_was_killed_died_without_a_word(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"

    def act() -> None:
        def killed(refs, how):
            while not (out / "logs/0001.json").exists():
                pass
            os.kill(os.getpid(), signal.SIGKILL)
            yield

        from raypipe.prepare.run import prepare

        with recording(str(out), COMMAND):
            prepare(dataset(root, out, **MORE), execute=killed)

    assert forked(act)[0] == -signal.SIGKILL
    found = status_of(str(out))
    assert (found["state"], found["exit_code"]) == ("died", None)
    capsys.readouterr()
    assert cli.main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    assert "died without a word" in said
    assert "continue  raypipe prepare set.yaml out=run" in said


def test_a_start_of_another_host_is_judged_by_its_signs_of_life(tmp_path):
    root, out = drawn(tmp_path), tmp_path / "run"
    prepared(root, out, **MORE)
    (out / "commit.json").unlink()
    now = datetime.now(UTC)
    process = {"host": "another", "here": "boot", "pid": 7, "started": "1"}
    record = {"verb": "prepare", "begun": now.isoformat(), "alive": now.isoformat(), "process": process}
    (out / "logs").mkdir()
    (out / "logs/0001.json").write_text(json.dumps(record))
    assert status_of(str(out), now + timedelta(seconds=60))["state"] == "running"
    found = status_of(str(out), now + timedelta(seconds=600))
    assert found["state"] == "died"
    assert found["silent_s"] == pytest.approx(600)


def test_a_torn_record_and_a_run_without_logs_are_readable(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    prepared(root, out, **MORE)
    found = status_of(str(out))
    assert (found["state"], found["starts"], found["begun"]) == ("finished", [], None)
    assert cli.main(["logs", str(out)]) == 2
    assert "no logs" in capsys.readouterr().err
    (out / "logs").mkdir()
    (out / "logs/0003.json").write_text('{"begun": "2026-')
    assert status_of(str(out))["state"] == "finished"
    (out / "commit.json").unlink()
    assert status_of(str(out))["state"] == "not finished"
    capsys.readouterr()
    assert cli.main(["status", str(out)]) == 0
    assert "continue  the same raypipe prepare command again" in capsys.readouterr().out


def test_every_kind_of_run_and_what_is_none(tmp_path, capsys):
    runs = [path for _, path in trained_and_untrained(tmp_path / "eval")]
    train = train_run(tmp_path / "train")
    many = [status_of(path) for path in [*runs, train]]
    assert {s["kind"] for s in many} == {"evaluate", "train"}
    steps = many[-1]["progress"]["steps"]
    assert steps[0] == steps[1] > 0
    assert many[0]["progress"]["questions"][0] == many[0]["totals"]["inputs"]
    capsys.readouterr()
    assert cli.main(["status", *runs, train, str(tmp_path)]) == 2
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert len(lines) == len(runs) + 2
    assert "not a run folder" in lines[-1]
    assert told.err == f"error: not a run folder: {tmp_path}\n  try: give the out= folder of a raypipe run\n"
    assert cli.main(["status", train, *runs, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == len(runs) + 1


def test_a_finished_run_whose_newest_start_failed_is_finished_all_the_same(tmp_path):
    root, out = drawn(tmp_path), tmp_path / "run"
    prepared(root, out, **MORE)
    with pytest.raises(RaypipeError), recording(str(out), COMMAND, opened=True):
        raise ServiceError("another driver is writing")
    found = status_of(str(out))
    assert (found["state"], found["starts"][-1]["exit_code"]) == ("finished", 5)
    said = render(found)
    assert "finished; its newest start (prepare): failed" in said
    assert "said      another driver is writing" in said
    assert "continue  raypipe prepare" in said


def test_from_another_folder_the_command_that_continues_leads_back(tmp_path, monkeypatch):
    root, out = drawn(tmp_path), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        stopped_after(1, root, out, KeyboardInterrupt())
    here = Path.cwd()
    assert "continue  raypipe prepare" in render(status_of(str(out)))
    monkeypatch.chdir(tmp_path)
    assert f"continue  cd {here} && raypipe prepare" in render(status_of(str(out)))


def test_answers_that_wait_for_a_judge_are_counted_and_failed_verdicts_are_not(tmp_path):
    run = Path(trained_and_untrained(tmp_path)[0][1])
    asked = {"answered": 7, "counted": 7, "waits_for_judge": True}
    graded = {"answered": 5, "counted": 5, "waits_for_judge": False}
    (run / "scores.json").write_text(json.dumps({"coverage": {"msvd_qa": asked, "pope": graded}}))
    command = Command(("judge", str(run)))

    def judged() -> None:
        with recording(str(run), command, opened=True), Step("judge") as step:
            step.note("9/9 verdicts", {"verdicts": [9, 9]})
            raise ServiceError("the judge answered none", "see that it is up")

    with pytest.raises(ServiceError):
        judged()
    found = status_of(str(run))
    assert "verdicts" not in found["progress"]
    assert (found["progress"]["answers_for_a_judge"], found["progress"]["answered"]) == (7, 12)
    assert next(iter(found["progress"])) == "questions"
    assert f"next      see that it is up\n  continue  raypipe judge {run}" in render(found)


def test_a_trial_that_its_search_gave_up_is_called_so(tmp_path):
    root, out = drawn(tmp_path), tmp_path / "run"
    prepared(root, out, **MORE)
    (out / "commit.json").unlink()
    (out / "stopped.json").write_text("{}")
    assert "prepare drawn: stopped early by its search" in render(status_of(str(out)))
    assert "continue" not in render(status_of(str(out))).replace("search continues", "")


def test_logs_of_one_start_of_all_and_as_they_come(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    prepared(root, out, **MORE)
    for word in ("first", "second"):
        with recording(str(out), COMMAND, opened=True), Step(word):
            pass
    capsys.readouterr()
    assert cli.main(["logs", str(out)]) == 0
    assert "second ..." in (said := capsys.readouterr().out)
    assert "first" not in said
    assert cli.main(["logs", str(out), "--start", "1"]) == 0
    assert "first ..." in capsys.readouterr().out
    assert cli.main(["logs", str(out), "--all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["starts"]
    assert [row["start"] for row in rows] == [1, 2]
    assert cli.main(["logs", str(out), "--start", "9"]) == 2
    assert "1 to 2" in capsys.readouterr().err
    assert cli.main(["logs", str(out), "--all", "--start", "1"]) == 2
    for digits in (300, 5000):
        assert cli.main(["logs", str(out), "--start", "9" * digits]) == 2
        assert "start=99999999... is not a whole number" in capsys.readouterr().err


def test_what_is_said_is_followed_until_the_end_also_where_it_is_cut(tmp_path):
    out = tmp_path / "run"
    prepared(drawn(tmp_path), out, **MORE)
    (out / "logs").mkdir()
    record = {"begun": now(), "alive": now(), "process": asdict(Process.this())}
    record_file, text_file = out / "logs/0001.json", out / "logs/0001.txt"
    record_file.write_text(json.dumps(record))
    texts = ["a\nb\n", "a\nb\nc\n", "a\n... 3 lines were left out here ...\ne\nf\n"]
    later = iter([*texts[1:], None])
    text_file.write_text(texts[0])

    def wait(_: float) -> None:
        text = next(later)
        if text is None:
            record_file.write_text(json.dumps({**record, "ended": now(), "exit_code": 0}))
        else:
            text_file.write_text(text)

    pieces = list(follow(Store(str(out)), None, wait))
    assert pieces == ["a\nb\n", "c\n", "... 3 lines were left out here ...\ne\nf\n"]


def test_neither_needs_ray(tmp_path):
    root, out = drawn(tmp_path), tmp_path / "run"
    prepared(root, out, **MORE)
    with recording(str(out), COMMAND, opened=True), Step("x"):
        pass
    script = (
        "import sys\nfrom raypipe import cli\n"
        f"assert cli.main(['status', {str(out)!r}]) == 0\nassert cli.main(['logs', {str(out)!r}]) == 0\n"
        "print(' '.join(m for m in ('ray', 'torch', 'transformers') if m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert "finished" in done.stdout


def test_no_secret_of_an_address_is_shown(tmp_path, capsys):
    secret = "https://me:0123456789abcdef@host/v1"
    for more in ((), ("--json",)):
        assert cli.main(["status", secret, str(tmp_path), *more]) == 2
        said = capsys.readouterr().out
        assert "https://***@host/v1" in said
        assert "0123456789abcdef" not in said


def test_what_a_fault_said_cannot_steer_the_terminal(tmp_path):
    with pytest.raises(ServiceError):
        stopped_after(1, drawn(tmp_path), tmp_path / "run", ServiceError("no \x1b]0;owned\x07", "free it"))
    found = status_of(str(tmp_path / "run"))
    assert "\x1b]0;owned\x07" in found["message"]
    for told in (render(found), render_many([found, {"run": "a", "state": "b", "message": "\x1b[2J"}])):
        assert all(line.isprintable() for line in told.splitlines())
