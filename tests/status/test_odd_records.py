"""A record of a start that is torn or odd leaves its run readable, and what is shown says what helps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe import cli
from raypipe.errors import RequestError, ServiceError
from raypipe.prepare import work
from raypipe.status.logs import follow
from raypipe.status.look import status_of
from raypipe.status.show import render
from raypipe.store import recording as module
from raypipe.store.files import Store
from raypipe.store.recording import now, recording
from raypipe.store.run import Run
from raypipe.store.starts import starts_of
from raypipe.terminal import Step
from tests.status.test_status import COMMAND, MORE, drawn
from tests.support.prepared import NoSandbox, dataset, prepared


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)


def recorded(root: Path, out: Path, *faults: BaseException | None) -> None:
    """Starts of a run that is not finished, each with its end."""
    Run.start(str(out), "prepare", dataset(root, out, **MORE))
    for fault in faults:
        with contextlib.suppress(BaseException), recording(str(out), COMMAND, opened=True), Step("x") as step:
            step.note("1/2 units", {"units": [1, 2]})
            if fault is not None:
                raise fault


def told(out: Path, capsys) -> str:
    """What status and logs say; no record may be too odd for them, and JSON has no Infinity."""
    capsys.readouterr()
    assert cli.main(["status", str(out), "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    for argv in (["logs", str(out)], ["logs", str(out), "--all"], ["logs", str(out), "--start", "1"]):
        assert cli.main(argv) == 0
        assert "x ..." in capsys.readouterr().out
    assert cli.main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    said.encode()
    assert "None" not in said
    assert "()" not in said
    assert not [line for line in said.splitlines() if line.endswith((" ", " on")) or " ," in line]
    return said


def test_a_record_that_is_cut_anywhere_leaves_the_run_readable(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    recorded(root, out, ServiceError("the disk is full", "free space"))
    record = out / "logs/0001.json"
    whole = record.read_bytes()
    last = len(whole.rstrip())
    for cut in range(last):
        record.write_bytes(whole[:cut])
        (start,) = starts_of(Store(str(out)))
        assert start.state() == "unreadable"
    record.write_bytes(whole[: last - 1])
    said = told(out, capsys)
    assert said.startswith("prepare drawn: not finished; the record of its newest start cannot be read\n")
    assert "continue  the same raypipe prepare command again" in said
    assert list(follow(Store(str(out)), None))
    record.write_bytes(whole)
    assert "failed" in told(out, capsys)


def test_beside_a_torn_record_the_others_are_shown(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    recorded(root, out, KeyboardInterrupt(), None)
    torn = out / "logs/0002.json"
    torn.write_bytes(torn.read_bytes()[:50])
    said = told(out, capsys)
    assert "continue  raypipe prepare set.yaml out=run" in said
    assert cli.main(["logs", str(out), "--all"]) == 0
    logs = capsys.readouterr().out
    assert logs.count("x ...") == 2
    assert "start 1: raypipe prepare set.yaml out=run\n" in logs
    assert "start 2: its record does not tell the command\n" in logs
    assert cli.main(["logs", str(out), "--start", "3"]) == 2
    assert "its starts are 1 to 2" in capsys.readouterr().err
    prepared(root, out, **MORE)
    assert told(out, capsys).startswith(
        "prepare drawn: finished; the record of its newest start cannot be read\n"
    )


def test_a_torn_record_does_not_hide_that_a_process_holds_the_run(tmp_path, monkeypatch):
    root, out = drawn(tmp_path), tmp_path / "run"
    recorded(root, out, None)
    (out / "logs/0001.json").write_text("{")
    holder = {"host": "gpu-1", "pid": 7, "since": "noon", "alive": True}
    monkeypatch.setattr("raypipe.status.look.holder_of", lambda store: holder)
    assert "running: process 7 on gpu-1" in render(status_of(str(out)))


ODD = [None, 5, -1.5, True, "\ud800", [[]], {"a": 1}, 10**300, float("inf")]
LIFE = ["begun", "alive", "beat_s", "process"]


def oddities(body: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The record with one field odd, or one field of the part that it is."""
    yield from ({**body, name: odd} for odd in ODD)
    if name in ("process", "stopping", "progress"):
        yield from ({**body, name: {**body[name], key: odd}} for key in body[name] for odd in ODD)


def test_a_record_with_odd_fields_leaves_the_run_readable(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    recorded(root, out, ServiceError("the disk is full", "free space"))
    record = out / "logs/0001.json"
    ended = json.loads(record.read_bytes()) | {"stopping": {"signal": "SIGTERM", "at": now()}}
    alive = {k: v for k, v in ended.items() if k not in ("ended", "exit_code", "stopping")}
    elsewhere = alive | {"process": {**alive["process"], "host": "another"}}
    states = set()
    for body, names in ((ended, list(ended)), (alive, LIFE), (elsewhere, LIFE)):
        for odd_body in (row for name in names for row in oddities(body, name)):
            record.write_text(json.dumps(odd_body))
            found = status_of(str(out))
            render(found).encode()
            json.dumps(found, allow_nan=False)
            states.add(found["starts"][0]["state"])
    assert states == {"failed", "running", "unreadable", "died"}
    for odd in ({}, [], 5, {"a": 1}, {"alive": 5, "process": 5}, {"again": 5}):
        record.write_text(json.dumps(odd))
        assert "unreadable" in told(out, capsys)
    record.write_text("[" * 100_000)
    assert "unreadable" in told(out, capsys)


def test_a_failed_run_shows_what_helps(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    recorded(root, out, ServiceError("the disk is full", "free space, or name another folder: out=..."))
    said = told(out, capsys)
    assert (
        "next      free space, or name another folder: out=...\n  continue  raypipe prepare set.yaml" in said
    )
    recorded(root, out, KeyboardInterrupt())
    assert "next" not in told(out, capsys), "of a stop it is the command that continues"


def test_a_command_that_was_refused_is_not_said_to_continue(tmp_path, capsys):
    root, out = drawn(tmp_path), tmp_path / "run"
    recorded(root, out, RequestError("no such file: a.json", "give the file"))
    said = told(out, capsys)
    assert "next      give the file" in said
    assert "continue" not in said
    assert status_of(str(out))["again"] == []
    prepared(root, out, **MORE)
    said = told(out, capsys)
    assert "finished; its newest start (prepare): failed" in said
    assert "next      give the file" in said
    assert "continue" not in said
