"""The body of ``raypipe export``: answers out of raypipe, in the formats that others read.

``upload`` is the file (or folder) of a benchmark's evaluation server; ``answers`` is the answer file of the
reference's own runners, which its scorers and ``raypipe score`` read. Everything is written beside the
target and moved there whole, so that a file under its final name is never half of one. What exists is
never replaced: the same content again is fine, another one is refused.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark
from raypipe.errors import RequestError, nearest
from raypipe.grading.metrics import ANSWERED
from raypipe.records import PREDICTION_SCHEMA, MediumKind, Prediction, Question, predictions_of
from raypipe.report.score import read_replies
from raypipe.settings import local
from raypipe.store.ledger import Ledger
from raypipe.store.run import Run

FORMATS = ("upload", "answers")
XLSX_TIMES = "docProps/core.xml"
TAG = "<image>\n"
# The reference's scorers look ids up as their files have them: as numbers, but for these.
TEXT_IDS = ("gqa", "scienceqa", "textvqa")
# The reference stores the question with its instruction and without tag, but for these.
WITH_TAG = ("scienceqa",)
WITHOUT_INSTRUCTION = ("mmbench",)


@dataclass(frozen=True)
class Answers:
    """Answers to the questions of one benchmark.

    ``texts`` is by question id. ``keys`` names each answer of a run by its content, ``model`` is the run's.
    """

    texts: Mapping[str, str]
    extra: int
    duplicate: int = 0
    keys: Mapping[str, str] = field(default_factory=dict)
    model: str = ""


def export(
    name: str,
    eval_root: str | Path,
    out: str | Path,
    *,
    answers: str | Path | None = None,
    run: str | None = None,
    split: str | None = None,
    form: str = "upload",
) -> dict[str, Any]:
    """Writes the answers of an evaluate run, or of an answer file, in another format.

    Args:
        out: the file, or for a server that takes several files their folder.
        answers: an answer file in the reference's format; or
        run: a finished evaluate run.
        split: which question set; of a run the one that it was asked, if not given.
        form: one of ``FORMATS``; ``answers`` needs a run.

    Returns:
        ``files`` written, and how many questions have an answer (``n``) or none (``missing``), and how many
        answers belong to no question (``extra``) or gave way to a later one (``duplicate``).

    Raises:
        RequestError: an unknown benchmark, split or format; a benchmark without an upload; no answer that
            belongs to a question; answers that the server would refuse; something else under that name.
    """
    if form not in FORMATS:
        raise RequestError(f"no format is called '{form}'", nearest(form, FORMATS))
    if (answers is None) == (run is None):
        raise RequestError("export takes --answers FILE or --run RUN", "give one of the two")
    opened = None if run is None else Run.open(local(run), "evaluate")
    benchmark = benchmarks.load(name, split if opened is None else _split_of(opened, name, split))
    write = _writer(benchmark, form, opened is not None)
    questions = benchmark.questions(eval_root)
    if opened is not None:
        given = _of_run(opened, benchmark, questions)
    else:
        texts, rows, extra = read_replies(questions, Path(str(answers)))
        given = Answers(texts, extra, rows - extra - len(texts))
    files = _placed(Path(local(str(out))), lambda place: write(Path(eval_root), questions, given, place))
    return {
        "benchmark": name,
        **({"split": benchmark.split} if benchmark.split else {}),
        "format": form,
        "files": [str(file) for file in files],
        "n": len(given.texts),
        "missing": len(questions) - len(given.texts),
        "extra": given.extra,
        "duplicate": given.duplicate,
    }


def with_upload() -> list[str]:
    """The benchmarks that have an upload, in any of their splits."""
    every = [(n, s) for n in benchmarks.names() for s in benchmarks.splits(n) or [""]]
    return sorted({n for n, s in every if benchmarks.load(n, s or None).upload is not None})


Writer = Callable[[Path, Sequence[Question], Answers, Path], list[Path]]


def _writer(benchmark: Benchmark, form: str, of_run: bool) -> Writer:
    if form == "answers":
        if not of_run:
            raise RequestError("--answers FILE is an answer file already", "--format answers takes --run RUN")
        return _write_video_answers if benchmark.media is MediumKind.VIDEO else _write_answers
    upload = benchmark.upload
    if upload is None:
        have = ", ".join(with_upload()) or "none"
        called = f"{benchmark.name} {benchmark.split}".strip()
        raise RequestError(
            f"{called} has no evaluation server to upload to",
            f"benchmarks with an upload: {have}. The answers of a run: --run RUN --format answers",
        )
    return lambda root, questions, given, place: upload(root, questions, given.texts, place)


def _split_of(run: Run, name: str, split: str | None) -> str | None:
    """The split that a run was asked.

    Raises:
        RequestError: it was asked another one than the one wanted.
    """
    settings = run.settings["settings"].get("splits", {})
    asked = benchmarks.load(name, settings.get(name)).split
    if split is not None and split != asked:
        raise RequestError(f"{run.store.root} was asked {name} {asked}, not {split}", "leave --split out")
    return asked or None


def _of_run(run: Run, benchmark: Benchmark, questions: Sequence[Question]) -> Answers:
    """The answered questions of a run; one whose medium could not be read, or that failed, has none."""
    rows = predictions_of(Ledger(run.store, "predictions", PREDICTION_SCHEMA).rows())
    mine: dict[str, Prediction] = {}
    for row in rows:
        if row.benchmark == benchmark.name:
            mine.setdefault(row.question_id, row)
    asked = [mine[q.id] for q in questions if q.id in mine]
    if not asked:
        raise RequestError(
            f"{run.store.root} was asked no question of {benchmark.name}",
            "name the run and the eval root it was asked with",
        )
    answered = [p for p in asked if p.outcome in ANSWERED]
    return Answers(
        texts={p.question_id: p.text for p in answered},
        extra=len(mine) - len(asked),
        keys={p.question_id: p.key for p in answered},
        model=str(run.settings["settings"]["model"]).rstrip("/").rpartition("/")[2],
    )


def _write_answers(root: Path, questions: Sequence[Question], given: Answers, place: Path) -> list[Path]:
    return _write_lines(
        place,
        [
            {
                "question_id": _id(question),
                "prompt": _prompt(question),
                "text": given.texts[question.id],
                "answer_id": given.keys[question.id],
                "model_id": given.model,
                "metadata": {},
            }
            for question in questions
            if question.id in given.texts
        ],
    )


def _write_video_answers(
    root: Path, questions: Sequence[Question], given: Answers, place: Path
) -> list[Path]:
    return _write_lines(
        place,
        [
            {"id": q.row_id, "question": q.question, "answer": q.reference, "pred": given.texts[q.id]}
            for q in questions
            if q.id in given.texts
        ],
    )


def _write_lines(place: Path, rows: list[dict[str, Any]]) -> list[Path]:
    with place.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return [place]


def _id(question: Question) -> str | int:
    number = question.row_id
    plain = number.isascii() and number.isdigit() and str(int(number)) == number
    return int(number) if plain and question.benchmark not in TEXT_IDS else number


def _prompt(question: Question) -> str:
    if question.benchmark in WITH_TAG and question.medium is not None:
        return TAG + question.prompt
    return question.question if question.benchmark in WITHOUT_INSTRUCTION else question.prompt


def _placed(out: Path, write: Callable[[Path], list[Path]]) -> list[Path]:
    """Lets ``write`` write beside the target, then moves it there whole; returns the files there.

    Raises:
        RequestError: something else is there already, or nothing can be written there.
    """
    parent = next(p for p in out.parents if p.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=parent) as folder:
            place = Path(folder) / out.name
            written = [file.relative_to(place) for file in write(place)]
            out.parent.mkdir(parents=True, exist_ok=True)
            if not _same(place, out):
                if out.is_dir() and not out.is_symlink():
                    shutil.rmtree(out)  # it is empty: see _same
                place.rename(out)
    except OSError as fault:
        raise RequestError(f"cannot write {out}: {fault.strerror}", "name another --out") from None
    return [out / file for file in written]


def _same(made: Path, out: Path) -> bool:
    """Whether the target holds this already; False where there is nothing yet.

    Raises:
        RequestError: something else is there.
    """
    if not out.exists() and not out.is_symlink():
        return False
    if made.is_dir() and out.is_dir():
        there = _contents(out)
        if not there or there == _contents(made):
            return bool(there)
    elif made.is_file() and out.is_file() and _content(made) == _content(out):
        return True
    raise RequestError(f"{out} is there already and holds something else", "name another --out, or remove it")


def _contents(folder: Path) -> dict[Path, Any]:
    return {p.relative_to(folder): _content(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _content(file: Path) -> Any:
    """What a file says; of a spreadsheet without the time at which it was made."""
    if file.suffix == ".xlsx" and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return {m.filename: (m.CRC, m.file_size) for m in archive.infolist() if m.filename != XLSX_TIMES}
    return file.read_bytes()
