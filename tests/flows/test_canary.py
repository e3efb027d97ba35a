"""A whole run by ``ray job submit``: the key of the judge is nowhere but in its file.

The same search finds a key that is planted where Ray's own way puts one, so that it cannot pass by looking
away.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.eval_media import eval_root
from tests.support.judge_endpoint import JudgeEndpoint

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


def test_the_key_of_the_judge_is_found_nowhere(one_node, tiny_folder, tmp_path):
    canary, planted = (f"sk-canary-{uuid.uuid4().hex}" for _ in range(2))
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key").write_text(canary)
    root, out = eval_root(tmp_path / "eval"), tmp_path / "run"
    report, cwd = tmp_path / "report", str(ROOT)
    with JudgeEndpoint() as endpoint, Watch([canary, planted]) as watch:
        evaluated = one_node.submit(
            *(sys.executable, f"{cwd}/jobs/evaluate.py", f"model={tiny_folder}", f"eval_root={root}"),
            *(f"out={out}", "actors=1", "actor_gpus=0", "actor_cpus=1", "precision=fp32", "max_new_tokens=4"),
            *(f"judge.base_url={endpoint.base_url}", f"judge.key_file={secrets / 'key'}"),
        )
        assert evaluated.returncode == 0, evaluated.stdout[-3000:] + evaluated.stderr[-3000:]
        sent = {call.headers["authorization"] for call in endpoint.calls}
        made = one_node.submit(sys.executable, "-m", "raypipe.cli", "report", str(out), f"out={report}")
        assert made.returncode == 0, made.stdout[-3000:]
        before = dict(watch.seen)
        plant = one_node.submit(
            sys.executable, "-c", "import time; time.sleep(2)", runtime={"env_vars": {"KEY": planted}}
        )
        assert plant.returncode == 0, plant.stderr[-3000:]
    assert sent == {f"Bearer {canary}"}  # it was read, and used
    assert (out / "scores.json").is_file()
    assert (report / "report.html").is_file()
    assert watch.looked > 1000
    # What is not looked for at the right places would not be found there either.
    assert watch.seen.get(planted)
    assert files_with(planted, one_node.folder)
    assert planted in one_node.told()
    assert before.get(canary) is None
    assert watch.seen.get(canary) is None
    assert files_with(canary, out, report, one_node.folder, root) == []
    assert canary not in one_node.told()
    for said in (evaluated, made):
        assert canary not in said.stdout + said.stderr
    assert files_with(canary, tmp_path) == [str(secrets / "key")]
