"""A whole run by jobs: the keys of the judge and of S3 and the token of the cluster are only in their files.

The same search finds a key that is planted where Ray's own way puts one, so that it cannot pass by looking
away.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raypipe.store.files import Store
from tests.support import ROOT
from tests.support.clips import data_root
from tests.support.eval_media import eval_root
from tests.support.judge_endpoint import JudgeEndpoint
from tests.support.one_node import TOKEN, OneNode
from tests.support.s3 import addressed_to, new_bucket

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@dataclass
class Watch(threading.Thread):
    """Looks at every process of the machine, again and again, for texts in what it was started with."""

    texts: list[str]
    seen: dict[str, set[str]] = field(default_factory=dict)
    looked: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.own = os.getpid()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self.stop.wait(0.05):
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit() and int(folder.name) != self.own:
                    for name in ("cmdline", "environ"):
                        with contextlib.suppress(OSError):
                            self._look(f"{name} of {folder.name}", (folder / name).read_bytes())

    def _look(self, where: str, data: bytes) -> None:
        self.looked += 1
        for text in self.texts:
            if text.encode() in data:
                self.seen.setdefault(text, set()).add(where)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


def files_with(text: str, *folders: Path) -> list[str]:
    """The files that hold a text, in their names or their bytes."""
    found = []
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and (text.encode() in file.read_bytes() or text in str(file)):
                found.append(str(file))
    return found


@dataclass
class Jobs:
    """The verbs of a whole run, each a job, and what was said of them."""

    node: OneNode
    folder: Path
    aws: dict[str, str]
    said: list[str] = field(default_factory=list)

    def job(self, script: str, *arguments: str, runtime: dict | None = None) -> None:
        """By Ray's own command line."""
        command = (sys.executable, *script.split(), *arguments)
        done = self.node.submit(*command, runtime=runtime or {"env_vars": self.aws})
        self._note(done)

    def submit(self, *arguments: str) -> None:
        """By raypipe's."""
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "raypipe.cli", "submit", *arguments, "--python", sys.executable]
        environ = self.node.environ | {"RAY_ADDRESS": self.node.dashboard}
        done = subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=300
        )
        self._note(done)

    def _note(self, done: subprocess.CompletedProcess[str]) -> None:
        self.said.append(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def yaml(file: Path, **values: object) -> str:
    file.write_text(json.dumps(values))  # JSON is YAML
    return str(file)


def stage(folder: Path, prepared: str) -> str:
    return yaml(
        folder / "stage.yaml",
        name="tiny",
        out=str(folder / "trained"),
        start={"random": "tiny", "seed": 4},
        mixture=[{"data": prepared}],
        rates={"multi_modal_projector": 2e-3},
        steps=2,
        global_batch=2,
        micro_batch=1,
        precision="fp32",
        workers={"num": 1, "cpus": 1},
        checkpoint={"every_steps": 1},
        cache={"folder": str(folder / "cache")},
    )


def whole_run(jobs: Jobs, tmp_path: Path, bucket: str, judge: list[str]) -> None:
    """prepare to S3, train from there, evaluate with a judge, report."""
    data_root(tmp_path / "data")
    prepared = f"s3://{bucket}/prepared"
    dataset = yaml(
        tmp_path / "dataset.yaml",
        name="drawn",
        data_root=str(tmp_path / "data"),
        annotations=["tune.json"],
        out=prepared,
        error_budget=1.0,
        rendition={"short_side": 32, "codec": "lossless"},
    )
    root, trained, run = eval_root(tmp_path / "eval"), tmp_path / "trained", tmp_path / "run"
    jobs.job(f"{ROOT}/jobs/prepare.py", dataset)
    jobs.job(f"{ROOT}/jobs/finetune.py", stage(tmp_path, prepared))
    jobs.submit(
        *("evaluate", "--model", str(trained), "--eval-root", str(root), "--out", str(run)),
        *("actors=1", "actor_gpus=0", "actor_cpus=1", "precision=fp32", "max_new_tokens=4", *judge),
    )
    jobs.job("-m raypipe.cli", "report", str(run), str(trained), f"out={tmp_path / 'report'}")


def test_secrets_are_found_nowhere_but_in_their_files(one_node, tmp_path, s3_server):
    key, secret, planted = (f"sk-canary-{uuid.uuid4().hex}" for _ in range(3))
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "key").write_text(key)
    (secrets / "aws").write_text(
        f"[default]\naws_access_key_id = testing\naws_secret_access_key = {secret}\n"
    )
    aws = {
        "AWS_SHARED_CREDENTIALS_FILE": str(secrets / "aws"),
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} & one_node.environ.keys()
    bucket, jobs = new_bucket(s3_server), Jobs(one_node, tmp_path / "mine", aws)
    with JudgeEndpoint() as endpoint, Watch([key, secret, TOKEN, planted]) as watch:
        judge = [f"judge.base_url={endpoint.base_url}", f"judge.key_file={secrets / 'key'}"]
        whole_run(jobs, tmp_path, bucket, judge)
        sent = {call.headers["authorization"] for call in endpoint.calls}
        jobs.job("-c", "import time; time.sleep(2)", runtime={"env_vars": {"KEY": planted}})
    assert sent == {f"Bearer {key}"}  # it was read, and used
    assert (tmp_path / "trained/commit.json").is_file()
    with addressed_to(s3_server):
        objects = Store(f"s3://{bucket}")
        assert "prepared/commit.json" in objects.list()
        assert not [n for n in objects.list() if secret.encode() in objects.read(n)]
    assert (tmp_path / "report/report.html").is_file()
    assert watch.looked > 1000
    told = one_node.told() + "".join(jobs.said)
    # What is not looked for at the right places would not be found there either.
    assert watch.seen.get(planted)
    assert files_with(planted, one_node.folder)
    assert planted in told
    for canary, file in (
        (key, secrets / "key"),
        (secret, secrets / "aws"),
        (TOKEN, one_node.folder / "token"),
    ):
        assert watch.seen.get(canary) is None
        assert canary not in told
        assert files_with(canary, tmp_path, one_node.folder) == [str(file)]
