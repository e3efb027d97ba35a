"""Writes small but real run folders for the report's tests: ledgers, manifests, JPEG frames."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from raypipe.benchmark import make_question
from raypipe.records import (
    PREDICTION_SCHEMA,
    THUMBS_SCHEMA,
    VERDICT_SCHEMA,
    MediumKind,
    MediumRef,
    Outcome,
    Prediction,
    Question,
    Reason,
    Rejection,
    Verdict,
    fingerprint,
)
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    JudgeSettings,
    Part,
    Price,
    StageSettings,
    Start,
)
from raypipe.store.ledger import Ledger
from raypipe.store.run import Manifest, Run

MATCHER = "deterministic matching judge, not an LLM"
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")


def frame(colour: str, position: int, size: int = 96) -> bytes:
    """A JPEG of one coloured disc on grey, at one of eight places along a line."""
    image = Image.new("RGB", (size, size), (205, 208, 214))
    x = 14 + position * (size - 28) // 7
    ImageDraw.Draw(image).ellipse([x - 12, size // 2 - 12, x + 12, size // 2 + 12], fill=colour)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


def video_questions(videos: int = 12, benchmark: str = "msvd_qa") -> list[Question]:
    """Two open questions about each of some clips."""
    questions = []
    for number in range(videos):
        ref = MediumRef(MediumKind.VIDEO, f"{benchmark}/videos/clip{number:03d}.mp4")
        colour = COLOURS[number % len(COLOURS)]
        for text, answer in (("What colour is the disc?", colour), ("Where does it move?", "to the right")):
            row = f"v_{number}_{len(questions) % 2}"
            questions.append(make_question(benchmark, row, ref, text, text, answer, "what"))
    return questions


def pope_questions(images: int = 10) -> list[Question]:
    """Yes-or-no questions about some images, in POPE's three categories."""
    questions = []
    for number in range(images):
        ref = MediumRef(MediumKind.IMAGE, f"pope/val2014/image{number:03d}.jpg")
        for category in ("adversarial", "popular", "random"):
            for thing, answer in (("disc", "yes"), ("ladder", "no")):
                text = f"Is there a {thing} in the image?"
                row = f"{number}-{category}-{thing}"
                shown = f"{text} ({category})"
                questions.append(make_question("pope", row, ref, text, shown, answer, category))
    return questions


def prediction(question: Question, text: str, outcome: Outcome = Outcome.OK, detail: str = "") -> Prediction:
    key = fingerprint("test", question.id)
    return Prediction.about(question, key, text, outcome, detail=detail, new_tokens=len(text.split()))


def verdict(made: Prediction, correct: bool | None, outcome: Outcome = Outcome.OK, **changes: Any) -> Verdict:
    reply = json.dumps({"verdict": "yes" if correct else "no", "score": 5 if correct else 0})
    fields: dict[str, Any] = {
        "key": fingerprint("verdict", made.question_id, changes.get("judge", MATCHER)),
        "benchmark": made.benchmark,
        "question_id": made.question_id,
        "judge": MATCHER,
        "judge_model": "matcher-1",
        "rubric": "video_qa@test",
        "outcome": outcome,
        "correct": correct,
        "score": None if correct is None else 5.0 * correct,
        "reply": reply if outcome == Outcome.OK else "the judge said something else",
        "prompt_tokens": 120,
        "reply_tokens": 12,
    }
    return Verdict(**{**fields, **changes})


def evaluate_run(
    root: Path,
    predictions: Sequence[Prediction],
    verdicts: Sequence[Verdict] = (),
    thumbs: dict[str, list[bytes]] | None = None,
    *,
    commit: bool = True,
    **settings: Any,
) -> str:
    """Writes an evaluate run; ``thumbs`` is the frames of each medium (drawn discs by default)."""
    values: dict[str, Any] = {
        "model": "runs/finetune",
        "eval_root": "eval",
        "out": str(root),
        "judge": JudgeSettings(name=MATCHER, model="matcher-1", price=Price(prompt=0.5, reply=1.5)),
    }
    run = Run.start(str(root), "evaluate", EvaluateSettings(**{**values, **settings}))
    by_benchmark: dict[str, list[Prediction]] = {}
    for made in predictions:
        by_benchmark.setdefault(made.benchmark, []).append(made)
    for name, rows in by_benchmark.items():
        Ledger(run.store, "predictions", PREDICTION_SCHEMA).append(f"{name}-0", rows)
    if verdicts:
        Ledger(run.store, "verdicts", VERDICT_SCHEMA).append("verdicts-0", verdicts)
    if thumbs is None:
        thumbs = {made.medium: drawn(made.medium) for made in predictions if made.outcome == Outcome.OK}
    rows = [thumb(medium, frames) for medium, frames in thumbs.items()]
    Ledger(run.store, "thumbs", THUMBS_SCHEMA).append("thumbs-0", rows)
    if commit:
        run.commit(Manifest("evaluate", [], {"inputs": len(predictions), "ok": len(predictions)}))
    return str(root)


def train_run(root: Path, steps: int = 120, name: str = "finetune", resumed: bool = True) -> str:
    """Writes a train run whose loss falls; it was resumed half way and repeats ten steps."""
    settings = StageSettings(
        name=name,
        out=str(root),
        start=Start(random="tiny", seed=3),
        mixture=[Part(data="runs/prepare")],
        rates={"connector": 1e-3, "language": 2e-5},
        seed=11,
    )
    run = Run.start(str(root), "train", settings)
    half = steps // 2
    order = [(s, 1) for s in range(1, half + 11)] + [(s, 2) for s in range(half + 1, steps + 1)]
    plain = [(s, 1) for s in range(1, steps + 1)]
    lines = [json.dumps(step_row(s, attempt)) for s, attempt in (order if resumed else plain)]
    run.store.replace("metrics.jsonl", ("\n".join(lines) + "\n").encode())
    run.commit(Manifest("train", [], {"steps": steps}))
    return str(root)


def step_row(step: int, attempt: int) -> dict[str, Any]:
    noise = 0.25 * math.sin(step * 12.9898) * math.exp(-step / 200)
    loss = 0.35 + 4.2 * math.exp(-step / 22) + noise * (0.4 + math.exp(-step / 30))
    return {
        "step": step,
        "epoch": step / 60,
        "samples": step * 16,
        "tokens": step * 16 * 90,
        "loss": max(0.05, loss) + (0.0 if attempt == 2 else 1e-6),
        "lr": 1e-3,
        "grad_norm": 1.0,
        "step_s": 0.4,
        "data_wait_s": 0.01,
        "attempt": attempt,
    }


def prepare_run(root: Path, detail: str = "the container ends before its index") -> str:
    """Writes a prepare run with 3 of 200 inputs in quarantine."""
    settings = DatasetSettings(name="demo", data_root="data", annotations=["a.json"], out=str(root))
    run = Run.start(str(root), "prepare", settings)
    rejections = [
        Rejection("s1", "sample", Reason.MEDIA_UNREADABLE, "clip7.mp4 is in quarantine", "clip7.mp4"),
        Rejection("m1", "medium", Reason.MEDIA_TRUNCATED, detail, "videos/clip7.mp4"),
        Rejection("s2", "sample", Reason.MEDIA_MISSING, "no such file", "videos/gone.mp4"),
        Rejection("s3", "sample", Reason.BAD_TAGS, "one tag, two files", "train.json#18"),
    ]
    run.commit(Manifest("prepare", [], {"inputs": 200, "ok": 197, "quarantined": 3}), rejections)
    return str(root)


def trained_and_untrained(root: Path, videos: int = 12, images: int = 10) -> list[tuple[str, str]]:
    """Two evaluate runs over a judged and a rule-graded benchmark: one mostly right, one mostly wrong."""
    questions = [*video_questions(videos), *pope_questions(images)]
    return [
        ("untrained", _answered(root / "untrained", questions, right=3, model="runs/start")),
        ("trained", _answered(root / "trained", questions, right=9, model="runs/finetune")),
    ]


def drawn(medium: str) -> list[bytes]:
    number = sum(medium.encode())
    colour = COLOURS[number % len(COLOURS)]
    places = [number % 8] if medium.endswith(".jpg") else range(8)
    return [frame(colour, place) for place in places]


def _answered(root: Path, questions: Sequence[Question], right: int, model: str) -> str:
    """Answers right in ``right`` of ten cases by the question's id; a few end in other outcomes."""
    predictions, verdicts = [], []
    for number, question in enumerate(questions):
        good = int(question.id[:6], 16) % 10 < right
        if number in (4, 31):
            predictions.append(prediction(question, "", Outcome.MEDIUM_BAD, "media_truncated: 3 of 22"))
            continue
        judged = question.benchmark == "msvd_qa"
        wrong = "I cannot say." if judged else {"yes": "No", "no": "Yes"}[question.reference]
        made = prediction(question, question.reference if good else wrong)
        predictions.append(made)
        if judged and number == 7:
            verdicts.append(verdict(made, None, Outcome.JUDGE_UNREADABLE))
        elif judged and number != 9:
            verdicts.append(verdict(made, good))
    return evaluate_run(root, predictions, verdicts, model=model)


@dataclass(frozen=True)
class Thumb:
    """One row of a run's thumbs ledger."""

    medium: str
    frames: tuple[bytes, ...]
    pts_s: tuple[float, ...]


def thumb(medium: str, frames: Sequence[bytes]) -> Thumb:
    return Thumb(medium, tuple(frames), tuple(0.375 * i for i in range(len(frames))))
