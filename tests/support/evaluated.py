"""Evaluations with an engine of a few lines: it tells what it was shown, goes slowly, ends its worker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raypipe.evaluate.certificate import Alone
from raypipe.evaluate.engine import UNCUT, Reply, Shown, Split, Way
from raypipe.evaluate.on_ray import on_ray
from raypipe.evaluate.plan import Unit
from raypipe.evaluate.read import Reader
from raypipe.evaluate.work import Answerer, Done, Work
from raypipe.media.sandbox import Sandbox
from raypipe.records import fingerprint
from raypipe.settings import DecodeLimits
from tests.support.clips import write_clip
from tests.support.eval_root_files import write_json
from tests.support.hooked import HARM
from tests.support.prepared import contents

PLACE = "GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA"


def clip_root(root: Path, names: Sequence[str], questions: int = 1) -> Path:
    """An eval root with msvd_qa alone: clips of the same frames, whose questions name them."""
    folder = root / PLACE
    clip = write_clip(root / "clip.mp4", frames=10)
    asked = [(f"{name}_{n}", name, f"what is {n} in {name}") for name in names for n in range(questions)]
    rows = [{"question_id": i, "video_name": name, "question": text} for i, name, text in asked]
    write_json(folder / "test_q.json", rows)
    write_json(
        folder / "test_a.json", [{"question_id": i, "answer": "a bar", "type": 1} for i, _, _ in asked]
    )
    (folder / "videos").mkdir(parents=True)
    for name in names:
        (folder / "videos" / f"{name}.mp4").write_bytes(clip.read_bytes())
    clip.unlink()
    return root


@dataclass
class Teller:
    """Answers with a name made from all it is shown and asked.

    Attributes:
        slow_s: how long it takes for a medium.
        deadly: a prompt that holds this ends the process, as a fault on the device would.
    """

    slow_s: float = 0.0
    deadly: str = ""

    def answer(
        self,
        shown: Sequence[Shown],
        way: Way,
        *,
        split: Split = UNCUT,
        on_split: Callable[[Split], None] | None = None,
    ) -> list[list[Reply]]:
        time.sleep(self.slow_s * len(shown))
        return [[self._reply(one, prompt, way) for prompt in one.prompts] for one in shown]

    def alone(self, shown: Shown, prompt: str, way: Way) -> Alone:
        return Alone(self._reply(shown, prompt, way), ())

    def close(self) -> None:
        pass

    def _reply(self, shown: Shown, prompt: str, way: Way) -> Reply:
        if self.deadly and self.deadly in prompt:
            os._exit(1)
        frames = [fingerprint(frame.hex()) for frame in shown.frames]
        return Reply(fingerprint(frames, prompt, way.template, way.max_new_tokens)[:8], 2)


class Harmful(Sandbox):
    """A sandbox whose child does what the name of a file says, and writes down each try at one."""

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-c", HARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        return self._child


_harmful: dict[DecodeLimits, Harmful] = {}


@dataclass(frozen=True)
class HookedReader(Reader):
    folder: str = ""
    harmful: bool = False
    deadly: str = ""
    slow_s: float = 0.0
    padding: int = 0  # bytes by which a medium is made heavier

    def _read(self, requests: Sequence[Any]) -> Any:
        if self.deadly and any(self.deadly in r.path for r in requests):
            os._exit(1)
        time.sleep(self.slow_s)
        return super()._read(requests)

    def __call__(self, unit: Unit, attempt: Any = None) -> Any:
        with marked(self.folder, "read", unit.id):
            media = super().__call__(unit, attempt)
            if self.padding:
                media = {p: replace(m, frames=(os.urandom(self.padding),)) for p, m in media.items()}
            return media

    def _sandbox(self) -> Sandbox:
        if not self.harmful:
            return super()._sandbox()
        return _harmful.setdefault(self.limits, Harmful(self.limits))


class HookedAnswerer(Answerer):
    folder = ""

    def __call__(self, unit: Unit, media: Any, attempt: Any = None) -> Any:
        with marked(self.folder, "answer", unit.id):
            return super().__call__(unit, media, attempt)


@dataclass(frozen=True)
class Hooked(Work):
    """Work that leaves marks below ``folder`` while it reads and answers units (see ``hooked.marks``)."""

    folder: str = ""
    slow_s: float = 0.0
    deadly: str = ""
    deadly_to_read: str = ""
    slow_to_read_s: float = 0.0
    padding: int = 0
    harmful: bool = False

    def reader(self) -> Reader:
        return HookedReader(
            **vars(super().reader()),
            folder=self.folder,
            harmful=self.harmful,
            deadly=self.deadly_to_read,
            slow_s=self.slow_to_read_s,
            padding=self.padding,
        )

    def answerer(self) -> Answerer:
        made = HookedAnswerer(Teller(self.slow_s, self.deadly), self.store, self.certified)
        made.folder = self.folder
        return made


@contextlib.contextmanager
def marked(folder: str, step: str, unit: str) -> Any:
    mark = Path(folder) / step / f"{unit}.{time.monotonic_ns()}.{os.getpid()}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{mark}.begun").touch()
    yield
    Path(f"{mark}.ended").touch()


def hooked(folder: Path, run: Any = on_ray, **more: Any) -> Callable[..., Iterable[Done]]:
    """The executor: units that leave marks in a folder."""

    def execute(units: Sequence[Unit], work: Work) -> Iterable[Done]:
        return run(units, Hooked(**vars(work), folder=str(folder), **more))

    return execute


def made_by(out: Path) -> dict[str, bytes]:
    """What a run holds, but for its settings, which say how it was carried out, and its leases."""
    return {n: d for n, d in contents(out).items() if not n.startswith("lease/") and n != "settings.json"}


def committed(out: Path) -> dict[str, tuple[int, int]]:
    """The committed units, by which file and when it was written."""
    return {
        f.name: (f.stat().st_ino, f.stat().st_mtime_ns)
        for f in (out / "predictions").glob("*.arrow")
        if not f.name.startswith(".")
    }


def scores_of(out: Path) -> bytes:
    return (out / "scores.json").read_bytes()


def answers_of(out: Path) -> dict[str, tuple[str, str, str]]:
    """Text, outcome and detail by the question's own id."""
    import pyarrow as pa

    rows = [
        row
        for file in (out / "predictions").glob("*.arrow")
        for row in pa.ipc.open_file(str(file)).read_all().to_pylist()
    ]
    assert len({r["row_id"] for r in rows}) == len(rows)
    return {r["row_id"]: (r["text"], r["outcome"], r["detail"]) for r in rows}


def tries_at(root: Path) -> dict[str, int]:
    """How often each harmful file was begun to be decoded."""
    return {f.name.removesuffix(".tries"): len(f.read_bytes()) for f in root.rglob("*.tries")}


def settings_file(file: Path, settings: Any) -> Path:
    file.write_text(json.dumps(settings.model_dump(mode="json", exclude_unset=True)))  # JSON is YAML
    return file
