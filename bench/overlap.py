"""Judging beside answering: the wall time of an evaluation whose model and judge take known times."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import drawn
from bench.figure import Figure, plain
from bench.judging import NO_KEY, endpoint
from raypipe.evaluate.engine import UNCUT, Reply, Shown, Split, Way
from raypipe.evaluate.plan import Unit
from raypipe.evaluate.run import evaluate
from raypipe.evaluate.work import Answerer, Done, Work
from raypipe.model.build import random_model, save_model
from raypipe.model.cards import Card
from raypipe.settings import EvaluateSettings, JudgeSettings
from raypipe.text.chat import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer

VIDEOS, EACH, CONCURRENCY = 24, 10, 8
SLOW_S, QUICK_S = 20.0, 8.0
TARGET = 1.1
MOST_ROUNDS = 3
CLIPS = [drawn.Drawn("h264-tiny", (96, 64), 1, options=drawn.h264(25), seed=80 + n) for n in range(2)]


def overlap(pairs: int) -> Iterator[Figure]:
    """Both ways round: the model is the slower one, and the judge is."""
    _round(0.1, 0.1)  # what is imported once a process is not measured
    for name, model_s, judge_s in (("overlap_model", SLOW_S, QUICK_S), ("overlap_judge", QUICK_S, SLOW_S)):
        walls = [_round(model_s, judge_s) for _ in range(min(pairs, MOST_ROUNDS))]
        yield plain(
            name,
            f"an evaluation of {VIDEOS * EACH} questions, start to scores: the model takes {model_s:g} s for "
            f"all of them, the judge {judge_s:g} s at {CONCURRENCY} at once",
            statistics.median(walls) / max(model_s, judge_s),
            "times the slower of the two",
            TARGET,
            note=f"median of {len(walls)} rounds; one after the other they would take "
            f"{(model_s + judge_s) / max(model_s, judge_s):.2f} times the slower",
        )


@dataclass
class Sleeping:
    """An engine that takes so many seconds for each question."""

    seconds: float

    def answer(
        self,
        shown: Sequence[Shown],
        way: Way,
        *,
        split: Split = UNCUT,
        on_split: Callable[[Split], None] | None = None,
    ) -> list[list[Reply]]:
        time.sleep(self.seconds * sum(len(one.prompts) for one in shown))
        return [[Reply(f"answer {n} to {p}", 4) for n, p in enumerate(one.prompts)] for one in shown]

    def close(self) -> None:
        pass


def _round(model_s: float, judge_s: float) -> float:
    """Seconds from the start of one evaluation to its scores."""
    engine = Sleeping(model_s / (VIDEOS * EACH))

    def execute(units: Sequence[Unit], work: Work) -> Iterator[Done]:
        answerer, reader = Answerer(engine, work.store), work.reader()
        for unit in units:
            yield Done(unit.id, tuple(answerer(unit, reader(unit))))

    with TemporaryDirectory(prefix="raypipe-bench-overlap-") as folder:
        root, model = _tree(Path(folder) / "eval"), _model()
        with endpoint(judge_s * CONCURRENCY / (VIDEOS * EACH)) as address:
            judge = JudgeSettings(base_url=address, key_env=NO_KEY, concurrency=CONCURRENCY)
            settings = EvaluateSettings(
                model=str(model),
                benchmarks=["msvd_qa"],
                eval_root=str(root),
                out=f"{folder}/run",
                media_per_unit=1,
                certificate=0,
                judge=judge,
            )
            began = time.perf_counter()
            evaluate(settings, execute=execute)
            return time.perf_counter() - began


def _tree(root: Path) -> Path:
    """An eval root of msvd_qa with tiny clips."""
    place = root / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA"
    (place / "videos").mkdir(parents=True)
    asked, known = [], []
    for number, file in enumerate(drawn.folder_of([c.file() for c in CLIPS], VIDEOS, "tiny")):
        (place / "videos" / f"v{number}.mp4").write_bytes(file.read_bytes())
        for question in range(EACH):
            name = f"{number}-{question}"
            asked.append({"video_name": f"v{number}", "question": f"what is {name}?", "question_id": name})
            known.append({"answer": f"thing {question}", "question_id": name})
    (place / "test_q.json").write_text(json.dumps(asked))
    (place / "test_a.json").write_text(json.dumps(known))
    return root


@cache
def _model() -> Path:
    """A tiny model's folder: what it is, is looked up; it answers nothing here."""
    folder = drawn.cache_folder() / "overlap-model"
    if not (folder / "config.json").exists():
        tokenizer = train_tokenizer([TEMPLATES["v1"].system, "USER: ASSISTANT: what is"])
        save_model(random_model("tiny", tokenizer, 3), Card(), folder)
    return folder
