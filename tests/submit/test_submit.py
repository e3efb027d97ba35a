"""``raypipe submit`` against a job server that does as a test says: what is sent, followed and said."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from raypipe import cli
from raypipe.submit import follow, run
from raypipe.submit.dashboard import Dashboard, token
from tests.support.job_server import JobServer, Planned, job_server  # noqa: F401 - a fixture

DATASET = "name: d\ndata_root: /shared/data\nannotations: [a.json]\nout: /shared/prepared/d\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The same pauses, shorter."""
    pace = follow.Pace(first=0.01, longest=0.02, silence=0.2, patience=5.0)
    monkeypatch.setattr(run, "PACE", pace)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    here = tmp_path / "mine"
    here.mkdir()
    (here / "d.yaml").write_text(DATASET)
    monkeypatch.chdir(here)
    return here


def submit(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(["submit", *argv])
    caught = capsys.readouterr()
    assert "Traceback" not in caught.err
    assert len(caught.err.splitlines()) <= 8, caught.err
    return code, caught.out, caught.err


def test_a_job_is_submitted_followed_and_ended_with_its_code(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(log=["one\n", "two\n"])]
    code, out, err = submit(capsys, "prepare", "d.yaml", "error_budget=0.02")
    assert code == 0
    assert out == "one\ntwo\n"
    (name, job), *more = job_server.jobs.items()
    assert not more
    assert name.startswith("raypipe-prepare-d-")
    assert name.endswith("-1")
    assert job["entrypoint"] == "python -m raypipe.cli prepare d.yaml error_budget=0.02"
    assert job["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    assert f"submitted {name}" in err
    assert len(job_server.packages) == 1


@pytest.mark.parametrize("flag", ["--all", "--follow"])
def test_a_flag_of_the_verb_reaches_the_job(capsys, folder, job_server, flag):  # noqa: F811
    job_server.planned = [Planned()]
    code, out, _ = submit(capsys, "logs", flag, "/run", "--detach")
    (job,) = job_server.jobs.values()
    assert (code, job["entrypoint"]) == (0, f"python -m raypipe.cli logs /run {flag}")
    assert f"raypipe submit logs /run {flag} follows it" in out


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6])
def test_the_exit_code_is_the_verbs_own(capsys, folder, job_server, code):  # noqa: F811
    said = "error: no such thing\n  try: another thing\n"
    job_server.planned = [Planned(log=["working\n", said], status="FAILED", exit_code=code, message="failed")]
    got, _, err = submit(capsys, "prepare", "d.yaml")
    assert got == code
    assert f"ended with exit code {code}: no such thing" in err
    assert "try: another thing" in err or "raypipe submit prepare d.yaml" in err


@pytest.mark.parametrize(
    ("plan", "code", "said"),
    [
        (Planned(status="STOPPED", exit_code=None), 4, "was stopped"),
        (
            Planned(status="FAILED", exit_code=None, message="runtime_env setup failed: no disk\n" * 40,
                    error_type="RUNTIME_ENV_SETUP_FAILURE"),
            5,
            "runtime_env setup failed: no disk",
        ),
        (
            Planned(status="FAILED", exit_code=None, message="Job supervisor actor died: node is gone",
                    error_type="JOB_SUPERVISOR_ACTOR_DIED"),
            1,
            "node is gone",
        ),
        (Planned(status="FAILED", exit_code=-9), 1, "was killed by SIGKILL"),
        (Planned(status="FAILED", exit_code=137), 1, "was killed by SIGKILL"),
        (Planned(status="FAILED", exit_code=163), 1, "was killed by signal 35"),
        (Planned(status="FAILED", exit_code=127), 5, "could not start its command"),
        (Planned(status="FAILED", exit_code=99), 1, "exit code 99"),
    ],
)  # fmt: skip
def test_other_ends_are_named(capsys, folder, job_server, plan, code, said):  # noqa: F811
    job_server.planned = [plan]
    got, _, err = submit(capsys, "prepare", "d.yaml")
    assert got == code
    assert said in err
    assert "try: " in err or code == 1


def test_json_is_one_object_and_the_log_goes_to_stderr(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(log=["the log\n"], status="FAILED", exit_code=3)]
    code, out, err = submit(capsys, "prepare", "d.yaml", "--json")
    assert code == 3
    told = json.loads(out)
    assert (told["status"], told["exit_code"], told["run"]) == ("FAILED", 3, "/shared/prepared/d")
    assert told["submission_id"] in job_server.jobs
    assert "the log\n" in err


def test_a_second_submission_follows_the_first(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(endless=True), Planned()]
    assert submit(capsys, "prepare", "d.yaml", "--detach")[0] == 0
    (name,) = job_server.jobs
    job_server.plans[name].endless = False
    code, out, err = submit(capsys, "prepare", "d.yaml")
    assert (code, out) == (0, "hello\n")
    assert f"{name} is at work already" in err
    assert len(job_server.jobs) == 1
    assert submit(capsys, "prepare", "d.yaml")[0] == 0  # it has ended: a new attempt, of the same run folder
    assert [n.rpartition("-")[0] for n in job_server.jobs] == [name[:-2]] * 2
    assert [n.rpartition("-")[2] for n in job_server.jobs] == ["1", "2"]


def test_other_settings_do_not_join_a_job_at_work(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(endless=True)]
    assert submit(capsys, "prepare", "d.yaml", "--detach")[0] == 0
    code, _, err = submit(capsys, "prepare", "d.yaml", "name=other")
    assert code == 2
    assert "with other settings" in err
    assert "ray job stop" in err
    job_server.planned = [Planned()]
    assert submit(capsys, "prepare", "d.yaml", "out=/shared/prepared/other")[0] == 0
    assert len(job_server.jobs) == 2


def test_a_lost_connection_is_not_a_lost_job(capsys, folder, job_server):  # noqa: F811
    job_server.outage = 2
    job_server.outage = 2
    job_server.planned = [Planned(log=[f"line {n}\n" for n in range(9)], cut_after=[3, 0, 7])]
    code, out, err = submit(capsys, "prepare", "d.yaml")
    assert code == 0
    assert job_server.cuts == 3  # the breaks happened
    assert out == "".join(f"line {n}\n" for n in range(9))  # and each line was shown once
    assert "the job goes on there, trying again" in err
    assert "the job goes on there, trying again" in err
    assert "connected again" in err


def test_a_cluster_that_answers_errors_for_a_while_is_waited_for(capsys, folder, job_server):  # noqa: F811
    busy = (500, "No available agent to submit job, please try again later.")
    job_server.refuse = {"POST /api/jobs/": [busy, busy]}
    job_server.planned = [Planned()]
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 0
    assert job_server.refuse["POST /api/jobs/"] == []
    assert "No available agent" in err
    job_server.refuse = {"POST /api/jobs/": [busy] * 50}
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 5
    assert "No available agent" in err


def test_an_answer_that_was_lost_is_not_a_second_job(capsys, folder, job_server, monkeypatch):  # noqa: F811
    """The first try arrives, its answer does not: the second learns that the name is taken, by itself."""
    from raypipe.submit.dashboard import Unreachable

    send, lost = Dashboard.submit, []

    def losing(self, body):
        send(self, body)
        if not lost:
            lost.append(body)
            raise Unreachable("no answer came")

    monkeypatch.setattr(Dashboard, "submit", losing)
    job_server.planned = [Planned(log=["once\n"])]
    code, out, _ = submit(capsys, "prepare", "d.yaml")
    assert lost
    assert (code, out, len(job_server.jobs)) == (0, "once\n", 1)


def test_a_death_is_submitted_again_and_a_wrong_request_is_not(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(status="FAILED", exit_code=-9), Planned(log=["ok\n"])]
    code, out, err = submit(capsys, "prepare", "d.yaml", "--retries", "2", "--json")
    assert (code, json.loads(out)["attempts"]) == (0, 2)
    assert "submitting again (1 of 2)" in err
    for wrong in (2, 3, 4, 5, 6):
        before = len(job_server.jobs)
        job_server.planned = [Planned(status="FAILED", exit_code=wrong), Planned()]
        assert submit(capsys, "prepare", "d.yaml", "--retries", "2")[0] == wrong
        assert len(job_server.jobs) == before + 1


def interrupt_when(server: JobServer, seen: str) -> threading.Thread:
    """Ctrl-C for this process, once the server was asked for something."""

    def press() -> None:
        while not any(seen in call for call in server.calls):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


def test_ctrl_c_stops_what_was_submitted_here(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(endless=True)]
    thread = interrupt_when(job_server, "logs/tail")
    code, _, err = submit(capsys, "prepare", "d.yaml")
    thread.join()
    assert code == 4
    (job,) = job_server.jobs.values()
    assert job["status"] == "STOPPED"
    assert "the same command continues it: raypipe submit prepare d.yaml" in err


def test_ctrl_c_is_heard_where_a_library_catches_everything():
    swallowed = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
        except BaseException as fault:  # as aiohttp does while it reads an answer
            swallowed.append(fault)
        await asyncio.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            follow._run(work())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not swallowed


def test_ctrl_c_leaves_a_job_that_was_joined(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(endless=True)]
    assert submit(capsys, "prepare", "d.yaml", "--no-wait")[0] == 0
    thread = interrupt_when(job_server, "logs/tail")
    code, _, err = submit(capsys, "prepare", "d.yaml")
    thread.join()
    assert code == 4
    (job,) = job_server.jobs.values()
    assert job["status"] == "RUNNING"
    assert "goes on" in err
    assert "ray job stop --address" in err


def test_tokens_that_are_missing_or_wrong(capsys, folder, job_server, monkeypatch, tmp_path):  # noqa: F811
    (tmp_path / "wrong").write_text("d5" * 32)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "wrong"))
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 5
    assert f"the token of {tmp_path / 'wrong'} is not its own" in err
    assert "d5d5" not in err
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 5
    assert "none was found" in err
    assert "~/.ray/auth_token" in err
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 2
    assert "RAY_AUTH_TOKEN_PATH: cannot read" in err
    assert not job_server.jobs
    assert not job_server.packages


def test_an_open_cluster_and_another_ray_are_said(capsys, folder, job_server):  # noqa: F811
    job_server.token, job_server.ray_version = None, "2.59.0"
    job_server.planned = [Planned()]
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 0
    assert "the cluster runs Ray 2.59.0" in err
    assert "from anyone who reaches it" in err


def test_no_cluster_and_something_else_at_its_port(capsys, folder, job_server, monkeypatch):  # noqa: F811
    code, _, err = submit(capsys, "prepare", "d.yaml", "--address", "http://127.0.0.1:1")
    assert code == 2 or "no Ray dashboard answers at http://127.0.0.1:1" in err
    assert (code, "ray dashboard cluster.yaml" in err) == (5, True)
    job_server.refuse = {"GET /api/version": [(200, "<html>hello</html>")]}
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 5
    assert "is no Ray dashboard" in err
    for wrong in ("10.0.0.1:6379", "auto", "ray://head:10001"):
        monkeypatch.setenv("RAY_ADDRESS", wrong)
        code, _, err = submit(capsys, "prepare", "d.yaml")
        assert code == 2
        assert f"RAY_ADDRESS is '{wrong}'" in err


def test_the_token_follows_no_redirect(capsys, folder, job_server):  # noqa: F811
    with JobServer() as other:
        job_server.refuse = {"GET /api/version": [(302, other.address)]}
        assert submit(capsys, "prepare", "d.yaml")[0] == 5
        assert other.calls == []


def test_a_job_that_the_cluster_forgot(capsys, folder, job_server):  # noqa: F811
    job_server.planned = [Planned(endless=True)]

    def forget() -> None:
        while not any("logs/tail" in call for call in job_server.calls):
            threading.Event().wait(0.01)
        job_server.jobs.clear()

    threading.Thread(target=forget, daemon=True).start()
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 5
    assert "does not exist" in err


@pytest.mark.parametrize("inside", [" ", "\n", "\t", "\x00", "\N{EURO SIGN}"])
def test_no_token_is_refused_without_a_word_of_it(capsys, folder, job_server, monkeypatch, inside):  # noqa: F811
    file = folder.parent / "two"
    file.write_text(f"d5d5d5d5{inside}e6e6e6e6")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    code, _, err = submit(capsys, "prepare", "d.yaml")
    assert code == 2
    assert f"what {file} holds is no token" in err
    assert "d5d5" not in err
    assert "e6e6" not in err
    assert job_server.calls == []


def test_a_user_without_a_name_and_a_home_submits(capsys, folder, job_server, monkeypatch):  # noqa: F811
    """As in a container whose user is a bare number; the last try finds no token."""

    def unnamed(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", unnamed)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    job_server.planned = [Planned()]
    assert submit(capsys, "prepare", "d.yaml")[0] == 0
    (job,) = job_server.jobs.values()
    assert job["metadata"]["raypipe_by"].startswith(f"{os.getuid()}@")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert token() == (None, "~/.ray/auth_token")


def test_submit_needs_neither_ray_nor_torch_to_refuse(folder):
    script = "import sys\nfrom raypipe import cli\ncode = cli.main(['submit', 'prepair'])\n"
    script += "print(sorted({'ray', 'torch', 'aiohttp'} & set(sys.modules)))\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "[]\n")


@pytest.mark.parametrize("where", ["submitted raypipe", "following it"])
def test_ctrl_c_at_once_is_about_the_job_too(capsys, folder, job_server, monkeypatch, where):  # noqa: F811
    """In the moment in which it is said that there is a job, before it is followed."""
    job_server.planned = [Planned(endless=True)]
    if where == "following it":
        assert submit(capsys, "prepare", "d.yaml", "--detach")[0] == 0
    told = run.Submitter.__init__

    def init(self, *args, note, **more):
        def noted(text: str) -> None:
            note(text)
            if where in text:
                os.kill(os.getpid(), signal.SIGINT)

        told(self, *args, note=noted, **more)

    monkeypatch.setattr(run.Submitter, "__init__", init)
    code, _, err = submit(capsys, "prepare", "d.yaml")
    (job,) = job_server.jobs.values()
    assert (code, job["status"]) == (4, "STOPPED" if where == "submitted raypipe" else "RUNNING")
    assert "what was committed stays" in err or "goes on" in err
