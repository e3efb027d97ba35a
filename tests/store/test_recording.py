"""The record and the log text that a start leaves in its run folder, and that they harm nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe import redaction
from raypipe.ending import Command
from raypipe.errors import BudgetError, RaypipeError, RequestError, ServiceError
from raypipe.prepare import work
from raypipe.store import recording as module
from raypipe.store.files import Store
from raypipe.store.recording import CUT, Text, began, recording, stopping
from raypipe.store.starts import DIED, FAILED, FINISHED, OVER_BUDGET, STOPPED, starts_of, text_of
from raypipe.store.verify import verify
from raypipe.terminal import Step
from tests.support.kills import forked
from tests.support.prepared import NoSandbox, contents, prepared
from tests.support.whole import MORE, small_root

COMMAND = Command(("train", "stage.yaml", "steps=3"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(redaction, "_known", set())


def newest(root: str):
    store = Store(root)
    start = starts_of(store)[-1]
    return start, text_of(store, start)


def recorded(root: str, fault: BaseException | None = None) -> None:
    with recording(root, COMMAND, opened=True), Step("train x") as step:
        step.note("3/9 units", {"units": [3, 9]})
        if fault is not None:
            raise fault


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_start_leaves_its_record_and_its_text(tmp_path, request, where):
    root = str(tmp_path / "run") if where == "disk" else request.getfixturevalue("s3_root")
    for _ in range(2):
        recorded(root)
    start, text = newest(root)
    assert start.number == 2
    assert start.state() == FINISHED
    assert start.text("command") == "raypipe train stage.yaml steps=3"
    assert start.part("process")["pid"] == os.getpid()
    assert start.part("progress")["counts"] == {"units": [3, 9]}
    assert start.text("begun") <= start.text("ended")
    lines = [line.partition("  ")[2] for line in text.splitlines()]
    assert lines[0] == "train x ..."
    assert lines[1].startswith("train x: 3/9 units, ")
    assert len(lines) == 2, "the end of a step says how far it came; not once more"


@pytest.mark.parametrize(
    ("fault", "code", "state", "said"),
    [
        (RequestError("no such thing", "name another"), 2, FAILED, "no such thing"),
        (BudgetError("over it"), 3, OVER_BUDGET, "over it"),
        (KeyboardInterrupt(), 4, STOPPED, "stopped; what was committed stays"),
        (ServiceError("disk full"), 5, FAILED, "disk full"),
        (ZeroDivisionError("of a worker"), 1, FAILED, "ZeroDivisionError: of a worker"),
    ],
)
def test_the_end_is_written_down_as_it_is_shown(tmp_path, fault, code, state, said):
    with pytest.raises(type(fault)):
        recorded(str(tmp_path), fault)
    start, text = newest(str(tmp_path))
    assert (start.exit_code, start.text("message"), start.state()) == (code, said, state)
    assert f"error: {said}" in text
    assert ("Traceback" in text) == (code == 1)
    if code == 4:
        assert start.text("next").endswith("it continues: raypipe train stage.yaml steps=3")


def test_the_traceback_of_a_worker_is_kept(tmp_path):
    fault = RaypipeError("a worker failed")
    fault.__cause__ = ValueError("deep in a worker")
    with pytest.raises(RaypipeError):
        recorded(str(tmp_path), fault)
    text = newest(str(tmp_path))[1]
    assert "ValueError: deep in a worker" in text
    assert "Traceback" in text


def test_nothing_is_written_before_the_folder_is_the_runs(tmp_path):
    with recording(str(tmp_path), COMMAND):
        began(str(tmp_path / "another"))
    assert list(tmp_path.iterdir()) == []
    with recording(str(tmp_path), COMMAND), Step("early"):
        began(str(tmp_path))
    assert "early ..." in newest(str(tmp_path))[1], "what was said before is not lost"


def test_a_run_inside_a_run_has_a_record_of_its_own(tmp_path):
    outer, inner = str(tmp_path / "train"), str(tmp_path / "prepare")
    with recording(outer, COMMAND):
        with recording(inner, COMMAND), Step("prepare x"):
            began(inner)
        began(outer)
        with Step("train x"):
            pass
    assert "train x" not in newest(inner)[1]
    assert {"prepare x ...", "train x ..."} <= {li[21:] for li in newest(outer)[1].splitlines()}


def test_warnings_are_kept_and_still_shown_once(tmp_path):
    """Also where a run is made inside another one, as a stage that prepares its data first."""
    script = (
        "import logging, sys\nfrom raypipe.store.recording import recording\n"
        "from raypipe.ending import Command\nlog = logging.getLogger('raypipe.x')\n"
        "with recording(sys.argv[1] + '/outer', Command(('train',)), opened=True):\n"
        "    log.warning('checkpoint %d is passed over', 7)\n"
        "    with recording(sys.argv[1] + '/inner', Command(('train',)), opened=True):\n"
        "        log.warning('shard %d is read again', 8)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True)
    for said, folders in (
        ("checkpoint 7 is passed over", ["outer"]),
        ("shard 8 is read again", ["inner", "outer"]),
    ):
        assert done.stderr.decode().count(said) == 1
        assert [
            f for f in ("inner", "outer") if f"warning: {said}" in newest(f"{tmp_path}/{f}")[1]
        ] == folders


def test_a_wrong_log_call_of_a_library_does_not_end_the_run(tmp_path):
    script = (
        "import logging, sys\nfrom raypipe.store.recording import recording\n"
        "from raypipe.ending import Command\n"
        "with recording(sys.argv[1], Command(('train',)), opened=True):\n"
        "    logging.getLogger('some.library').warning('%d files', 'three')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True)
    assert b"Logging error" in done.stderr  # as Python says it without us
    assert newest(str(tmp_path))[0].state() == FINISHED


def warned(root: str, command: Command, secrets: list[str], fault: Exception) -> None:
    with recording(root, command, opened=True), Step(f"judge {secrets[3]}") as step:
        step.note(f"{secrets[3]} so far", {"verdicts": [1, 2]})
        logging.getLogger("raypipe").warning("asked with Bearer %s", secrets[0])
        logging.getLogger("raypipe").warning("credentials in /etc/creds: %s", secrets[2])
        raise fault


def test_secrets_are_in_neither(tmp_path, monkeypatch):
    secrets = ["sk-abcdefghijklmnop1234", "hunter2hunter2", "AKIAABCDEFGHIJKLMNOP", "s3cr3t-of-a-variable"]
    monkeypatch.setenv("JUDGE_API_KEY", secrets[3])
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/etc/creds")
    command = Command(("judge", f"base_url=https://me:{secrets[1]}@judge.example/v1"))
    fault = ServiceError(f"401 with {secrets[3]}", f"not {secrets[3]}")
    fault.__cause__ = ValueError(f"api_key='{secrets[0]}'")
    with pytest.raises(ServiceError):
        warned(str(tmp_path), command, secrets, fault)
    written = b"".join(f.read_bytes() for f in (tmp_path / "logs").iterdir()).decode()
    assert not [s for s in secrets if s in written]
    assert "/etc/creds" in written, "the path of a secret is none"
    assert "https://***@judge.example/v1" in written


@pytest.mark.parametrize(
    "secret",
    [
        "github_pat_11ABCDEFG0123456789_abcdefghij",
        "glpat-abcdefghij0123456789",
        "AIza" + "Sy0123456789abcdefghijklmnopqrstuvw",
        "nvapi-abcdefghij0123456789abcdefghij",
        "xoxb-123456789012-abcdefghijkl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk",
    ],
)
def test_keys_of_known_shapes_are_taken_out(secret):
    assert redaction.redact(f"answered: {secret}, twice") == "answered: ***, twice"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://me:p@ss@host/x", "https://***@host/x"),
        ("s3://AKIAABCDEFGHIJKLMNOP:ab/c+d/e@bucket/x", "s3://***@bucket/x"),
        ("http://host:8265/a@b", "http://host:8265/a@b"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/a/b@c", "s3://arn:aws:s3:eu-west-1:1:accesspoint/a/b@c"),
        ("'secret_key': 'abcdefgh12345'", "'secret_key': '***'"),
        ("x-api-key: abcdefgh12", "x-api-key: ***"),
        ("access_token=abcdefgh12", "access_token=***"),
        ("authorization: Basic dXNlcjpwYXNzd29yZA==", "authorization: Basic ***"),
        ("curl -u me:hunter2 https://host/a", "curl -u *** https://host/a"),
        ("curl -sSu 'me:hunter 2' --user=sk_live: -ume:hunter2", "curl -sSu *** --user=*** -u***"),
        ("docker run --user 1000:100 -u 0:0", "docker run --user 1000:100 -u 0:0"),
        ("sort -u a.txt b:c, x -u https://host/a", "sort -u a.txt b:c, x -u https://host/a"),
        ("https://h/a?x=https://h/?b=1&my_token=abc", "https://h/a?x=https://h/?b=1&***"),
        ("max_tokens=2048000000", "max_tokens=2048000000"),
        ("key_file=/home/me/judge_key", "key_file=/home/me/judge_key"),
        ("Basic configuration, tokens: 12345678", "Basic configuration, tokens: 12345678"),
    ],
)
def test_what_is_assigned_to_a_secrets_name_is_taken_out(text, left):
    assert redaction.redact(text) == left


@pytest.mark.timeout(60)  # what takes the square of its length takes many times as long
@pytest.mark.parametrize("piece", ["key", "?", "eyJaaaaaaaa-", " -u a"])
def test_a_long_text_without_secrets_comes_to_an_end(piece):
    text = "?" + piece * (1_000_000 // len(piece))
    assert redaction.redact(text) == text


def test_a_long_text_is_cut_in_the_middle():
    text = Text(head=200, tail=400)
    for number in range(1000):
        text.add(f"line {number}")
    lines = text.data().decode().splitlines()
    said = [line.partition("  ")[2] for line in lines]
    assert said[0] == "line 0"
    assert said[-1] == "line 999"
    (place,) = [n for n, line in enumerate(lines) if CUT.match(line)]
    left_out = int(CUT.match(lines[place])[1])
    assert place + left_out + len(lines) - place - 1 == 1000
    assert len(text.data()) < 200 + 400 + 100


def test_what_moves_a_cursor_is_not_kept():
    text = Text()
    text.add("a name with \x1b[2J and \x9b31m in it, and a\ttab")
    assert text.data().decode().endswith("a name with ?[2J and ?31m in it, and a\ttab\n")


def test_a_log_that_cannot_be_written_is_said_once_and_the_run_goes_on(tmp_path, capfd):
    (tmp_path / "logs").write_text("a file where a folder should be")
    recorded(str(tmp_path))
    assert capfd.readouterr().err.count("warning: the log of this start") == 1
    assert (tmp_path / "logs").read_text() == "a file where a folder should be"


def test_a_signal_is_written_down_before_the_end(tmp_path):
    """What sends it may kill the process some seconds later."""

    def act() -> None:
        with recording(str(tmp_path), COMMAND, opened=True):
            stopping("SIGTERM")
            while not any(s.part("stopping") for s in starts_of(Store(str(tmp_path)))):
                pass
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(act)[0] == -signal.SIGKILL
    start, _ = newest(str(tmp_path))
    assert start.exit_code is None
    assert start.part("stopping")["signal"] == "SIGTERM"
    assert start.state() == STOPPED


class Killing(Store):
    """Ends the process at the n-th write of a log, before it or in its middle."""

    at, seen = 1, 0

    def replace(self, name: str, data: bytes) -> None:
        self._step(name, data)
        super().replace(name, data)

    def put_new(self, name: str, data: bytes, *, ours: bool = False) -> bool:
        self._step(name, data)
        return super().put_new(name, data, ours=ours)

    def _step(self, name: str, data: bytes) -> None:
        Killing.seen += 1
        if Killing.seen == Killing.at:
            torn = Path(self.path(f"logs/.torn{os.getpid()}.tmp"))
            torn.parent.mkdir(exist_ok=True)
            torn.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_kill_in_a_log_write_harms_no_run(tmp_path, monkeypatch, at):
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)
    root = small_root(tmp_path / "data")
    prepared(root, tmp_path / "undisturbed", **MORE)
    out = tmp_path / "run"

    def act() -> None:
        with recording(str(out), COMMAND):
            prepared(root, out, **MORE)

    def harmed() -> None:
        Killing.at, Killing.seen = at, 0
        module.Store = Killing
        act()

    assert forked(harmed)[0] == -signal.SIGKILL
    assert forked(act)[0] == 0
    assert verify(str(out)).damage == []
    made = {
        n: d for n, d in contents(out).items() if n not in ("settings.json", "manifest.json", "commit.json")
    }
    expected = contents(tmp_path / "undisturbed")
    assert made.keys() <= expected.keys()
    states = [start.state() for start in starts_of(Store(str(out)))]
    assert states[-1] == FINISHED
    assert set(states[:-1]) <= {DIED}


def test_logs_are_no_part_of_the_run(tmp_path, monkeypatch):
    """Its identity, its manifest and what verify says are the same with and without them."""
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)
    root = small_root(tmp_path / "data")
    with recording(str(tmp_path / "run"), COMMAND):
        prepared(root, tmp_path / "run", **MORE)
    assert (tmp_path / "run/logs/0001.json").exists()
    assert verify(str(tmp_path / "run")).damage == []
    assert "logs" not in json.dumps(json.loads((tmp_path / "run/manifest.json").read_text())["files"])
    shutil.rmtree(tmp_path / "run/logs")
    assert verify(str(tmp_path / "run")).damage == []
    prepared(root, tmp_path / "run", **MORE)
