"""Every exit code in many verbs, with a short message and no traceback: by the command line, and as jobs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from raypipe import cli
from raypipe.store.files import Store
from raypipe.store.lease import Lease
from tests.cli.scene import Scene
from tests.cli.scene import build as build_scene
from tests.support import ROOT
from tests.support.clips import talk, write_annotations
from tests.support.eval_roots import made_up
from tests.support.prepared import prepared

DRAWN = "name=drawn rendition.short_side=32 rendition.codec=lossless media_per_shard=3"
# code | what the message says | the command, in the folder `work` of tests/cli/scene.py ($R above it)
SCENARIOS = f"""
0 | usage: | --help
0 | published | benchmarks
0 | proved | verify $R/drawn/run
0 | records ready | prepare d.yaml out=$R/drawn/run {DRAWN}
0 | train | status $R/train
0 | questions scored | score pope eval_root=$R/eval answers=$R/answers.jsonl
0 | trained | report $R/runs/trained out=$R/report
0 | trained | compare $R/runs/trained $R/runs/untrained
1 | ZeroDivisionError | broken
2 | no verb is called | prepair d.yaml
2 | unknown setting | train s.yaml stepps=3
2 | no such model folder | train s.yaml start.model=/no/such
2 | no benchmark is called | evaluate e.yaml benchmarks=popee
2 | takes one of evaluate | judge $R/drawn/run
2 | not a run folder | verify $R/eval
2 | neither a yaml | submit prepare d.yaml sampling
3 | the error budget is 0.0 % | prepare d.yaml data_root=$R/bad/data out=$R/bad/run error_budget=0 {DRAWN}
3 | media_missing | unpack seed_bench eval_root=$R/seed ssv2=$R/eval
4 | stopped; what was committed stays | terminated
4 | stopped; what was committed stays | interrupted
5 | another driver is writing | prepare d.yaml out=$R/held
5 | cannot write | report $R/runs/trained out=$R/desk/notes.txt/x
5 | gcsfs | verify gs://bucket/run
5 | no Ray dashboard answers | submit prepare d.yaml address=http://127.0.0.1:1
5 | lacks the package | lacking
6 | content differs from its hash | verify $R/damaged
6 | fault(s) | verify $R/cut
"""
AS_JOBS = """
0 | proved | verify $R/drawn/run
0 | trained | report $R/runs/trained out=$R/report2
0 | published | benchmarks
0 | questions scored | score pope eval_root=$R/eval answers=$R/answers.jsonl
0 | trained | compare $R/runs/trained $R/runs/untrained
1 | was killed by SIGKILL | benchmarks --python ./killed
1 | ended with exit code 1 | benchmarks --python ./broken
2 | not a run folder | verify $R/eval
2 | not a run folder | report $R/eval out=$R/report3
2 | no such model folder | train s.yaml start.model=/no/such
2 | takes one of evaluate | judge $R/drawn/run
2 | did you mean 'pope'? | score pop eval_root=$R/eval answers=$R/answers.jsonl
3 | files could not be made | unpack seed_bench eval_root=$R/seed ssv2=$R/eval
4 | raypipe submit benchmarks | benchmarks --python ./terminated
4 | raypipe submit benchmarks | benchmarks --python ./interrupted
5 | cannot write | report $R/runs/trained out=$R/desk/notes.txt/x
5 | gcsfs | verify gs://bucket/run
5 | --python | benchmarks --python /no/such/python
6 | content differs from its hash | verify $R/damaged
6 | fault(s) | verify $R/cut
"""
VERB = """
import os, signal, sys, time
from raypipe import cli
from raypipe.commands import results

def benchmarks(request):
    {does}

results.benchmarks = benchmarks
sys.exit(cli.main(["benchmarks"]))
"""


@dataclass(frozen=True)
class Scenario:
    code: int
    said: str
    line: str


def read(text: str) -> list[Scenario]:
    rows = [[part.strip() for part in line.split("|")] for line in text.strip().splitlines()]
    return [Scenario(int(code), said, line) for code, said, line in rows]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    made = build_scene(tmp_path_factory.mktemp("scene"))
    root = made.root
    lines = [json.dumps({"question_id": n, "text": "yes"}) for n in range(1, 6)]
    (root / "answers.jsonl").write_text("\n".join(lines) + "\n")
    write_annotations(
        root / "bad/data", [{"image": "no.png", "conversations": talk("<image>\nWhat?", "Red.")}]
    )
    prepared(root / "bad/data", root / "bad/run", error_budget=1.0)
    made_up(root / "seed", "seed_bench")
    shutil.copytree(root / "drawn/run", root / "cut")
    shard = min((root / "cut/media").iterdir())
    shard.write_bytes(shard.read_bytes()[:-100])
    return made


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs that end as no wrong request makes them end; none connects to a cluster."""

    def broken(request):
        return 1 / 0

    def lacking(request):
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    def signalled(number: signal.Signals):
        def run(request):
            os.kill(os.getpid(), number)
            time.sleep(60)

        return run

    made = {"broken": broken, "lacking": lacking}
    made |= {"terminated": signalled(signal.SIGTERM), "interrupted": signalled(signal.SIGINT)}
    for name, run in made.items():
        monkeypatch.setitem(cli.VERBS, name, cli.Verb("results", "", ""))
        monkeypatch.setattr(f"raypipe.commands.results.{name}", run, raising=False)
    monkeypatch.setattr("raypipe.cluster.connected", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr("raypipe.cluster.facts", dict)
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def held_to(scenario: Scenario, code: int, out: str, err: str) -> None:
    """What every end has in common."""
    assert code == scenario.code, err
    assert scenario.said in out + err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.strip() and not line.endswith(" ...")]
    if code:
        assert len(lines) <= 8, err
        assert "error: " in err
        assert "try: " in err
    else:
        assert "error" not in err


@pytest.mark.parametrize("scenario", read(SCENARIOS), ids=lambda s: f"{s.code} {s.line[:50]}")
def test_a_command_ends_with_its_code(capsys, scene, verbs, monkeypatch, scenario):
    monkeypatch.chdir(scene.root / "desk")
    held = "/held" in scenario.line
    with Lease.take(Store(str(scene.root / "held"))) if held else contextlib.nullcontext():
        code = cli.main(scene.argv(tuple(shlex.split(scenario.line))))
    caught = capsys.readouterr()
    held_to(scenario, code, caught.out, caught.err)


def test_there_are_twenty_of_every_code():
    for text in (SCENARIOS, AS_JOBS):
        assert len(read(text)) >= 20
        assert {scenario.code for scenario in read(text)} == set(range(7))


@pytest.mark.parametrize("code", [0, 2, 3, 5, 6])
def test_the_process_ends_with_it_too(scene, code):
    """One of each, in a process of its own."""
    plain = [s for s in read(AS_JOBS) if s.code == code and "--python" not in s.line]
    argv = scene.argv(tuple(shlex.split(plain[0].line)))
    command = [sys.executable, "-m", "raypipe.cli", *argv]
    done = subprocess.run(command, cwd=scene.root / "desk", capture_output=True, text=True)
    held_to(plain[0], done.returncode, done.stdout, done.stderr)


def scripts(folder: Path) -> None:
    """Interpreters of the folder's own, whose verb ends as no request can make it end."""
    does = {
        "broken": "return 1 / 0",
        "terminated": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        "interrupted": "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    }
    for name, text in does.items():
        (folder / f"{name}.py").write_text(VERB.format(does=text))
        (folder / name).write_text(f"#!/bin/sh\nexec {sys.executable} {name}.py\n")
        (folder / name).chmod(0o755)


@pytest.mark.engine
@pytest.mark.timeout(400)
def test_a_job_ends_with_the_code_of_its_verb(scene, one_node):
    """Also where Ray says it failed, or never started it; ``ray job submit`` ends all of these with 1."""
    folder = scene.root / "mine"
    folder.mkdir()
    scripts(folder)
    for name in ("d.yaml", "s.yaml"):
        shutil.copy(scene.root / "desk" / name, folder)
    environ = {
        **{k: v for k, v in os.environ.items() if k != "RAY_API_SERVER_ADDRESS"},
        "PYTHONPATH": str(ROOT),
        "RAY_ADDRESS": one_node.dashboard,
        "RAY_AUTH_TOKEN_PATH": one_node.environ["RAY_AUTH_TOKEN_PATH"],
    }
    raypipe = [sys.executable, "-m", "raypipe.cli", "submit"]

    def submitted(verb: str) -> list[tuple[Scenario, subprocess.CompletedProcess[str]]]:
        """One after the other: a submission of what runs already would join it."""
        ended = []
        for scenario in (s for s in read(AS_JOBS) if s.line.split()[0] == verb):
            command = [*raypipe, *scene.argv(tuple(shlex.split(scenario.line)))]
            done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
            ended.append((scenario, done))
        return ended

    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(submitted, sorted({s.line.split()[0] for s in read(AS_JOBS)})))
    for scenario, done in (pair for pairs in ended for pair in pairs):
        held_to(scenario, done.returncode, done.stdout, done.stderr)
        assert "submit: submitted raypipe-" in done.stderr
        assert len(done.stderr.splitlines()) <= 8, done.stderr
