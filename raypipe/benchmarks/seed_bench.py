"""SEED-Bench: 19,242 multiple-choice questions in twelve types, nine on images and three on videos.

Scorer: LLaVA's ``convert_seed_for_submission.py``: a reply must be the right letter and nothing else.
``image`` and ``video`` split by data type, ``accuracy/<type>`` by question type. A video question is asked
about one frame from the middle of its video; ``write_video_frames`` takes them out. Where raypipe differs: an
unanswered question is missing, while the reference counts it wrong; a type of which
nothing is right scores 0, where the reference stops; options and questions of the two files are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from raypipe.benchmark import OPTION_LETTER, Benchmark, make_question, without_suffix
from raypipe.errors import RequestError, nearest
from raypipe.eval_root import Row, field, medium_path, read_json, read_json_lines
from raypipe.grading.metrics import GradedTable, Metric, accuracies, proportion
from raypipe.grading.rules import ExactMatch
from raypipe.media.middle_frame import Clip, Written, write_middle_frames
from raypipe.records import MediumKind, MediumRef, Question
from raypipe.store.files import Store
from raypipe.submission import all_answered, write_whole

NAME = "seed_bench"
ANNOTATION = "seed_bench/SEED-Bench.json"
QUESTIONS = "seed_bench/llava-seed-bench.jsonl"
VIDEO_FRAMES = "seed_bench/SEED-Bench-video-image"
VIDEO_SOURCES = {"10": "ssv2", "11": "epic_kitchens", "12": "breakfast"}  # by question type
SOURCE_NAMES = list(VIDEO_SOURCES.values())
SUFFIXES = (".webm", ".mp4", ".MP4", ".avi", ".mkv")  # some ids are names without one
DATA_TYPES = ("image", "video")
CHOICES = {"A": "choice_a", "B": "choice_b", "C": "choice_c", "D": "choice_d"}
SOURCE = (
    "SEED-Bench.json and the images are on https://huggingface.co/datasets/AILab-CVC/SEED-Bench; "
    "llava-seed-bench.jsonl is in LLaVA's eval.zip; raypipe unpack seed_bench makes the video frames of "
    "the videos of Something-Something v2, EPIC-Kitchens and Breakfast"
)


def same_id(text: str) -> int | str:
    """The reference's rule: ids are the same if they are the same number, or else the same text."""
    try:
        return int(text)
    except ValueError:
        return text


def read_annotation(path: Path) -> tuple[list[Row], dict[str, str]]:
    """The questions in their order, and the names of the question types by id.

    Raises:
        RequestError: the file is missing, damaged or of another form.
    """
    content = read_json(path)
    rows, types = (
        (content.get("questions"), content.get("question_type"))
        if isinstance(content, dict)
        else (None, None)
    )
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"{path} does not hold 'questions', an array of objects", SOURCE)
    if not isinstance(types, dict):
        raise RequestError(f"{path} does not hold 'question_type', an object", SOURCE)
    return rows, {str(number): str(name) for name, number in types.items()}


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the annotation, in the order of the question file.

    Raises:
        RequestError: a damaged row, or the two files do not hold the same questions and options.
    """
    path, annotation_path = eval_root / QUESTIONS, eval_root / ANNOTATION
    rows, types = read_annotation(annotation_path)
    truth: dict[int | str, Row] = {}
    for number, row in enumerate(rows, 1):
        row_id = field(row, "question_id", annotation_path, f"question {number}")
        if truth.setdefault(same_id(row_id), row) is not row:
            raise RequestError(f"{annotation_path}, question {number}: id {row_id!r} is there twice")
    questions = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, image, prompt = (field(row, name, path, where) for name in ("question_id", "image", "text"))
        entry = truth.pop(same_id(row_id), None)
        if entry is None:
            raise RequestError(
                f"{path}, {where}: {row_id!r} is there twice, or not in {annotation_path.name}", SOURCE
            )
        bare = without_suffix(prompt, OPTION_LETTER, path, where)
        letter, category, tags = _answer(entry, bare, types, annotation_path, f"question {row_id}")
        medium = MediumRef(MediumKind.IMAGE, medium_path(NAME, image, path, where))
        questions.append(make_question(NAME, row_id, medium, prompt, bare, letter, category, tags=tags))
    if truth:
        raise RequestError(
            f"{annotation_path} holds {len(truth)} questions that {path.name} does not ask, "
            f"for example {next(iter(truth))!r}",
            "take both files of the same release",
        )
    return questions


def _answer(
    entry: Row, bare: str, types: Mapping[str, str], path: Path, where: str
) -> tuple[str, str, tuple[str, ...]]:
    """Right letter, name of the question type, and tags."""
    asked = [field(entry, "question", path, where)]
    asked += [f"{k}. {field(entry, c, path, where)}" for k, c in CHOICES.items() if entry.get(c) is not None]
    if _plain(" ".join(asked)) != _plain(bare):
        raise RequestError(f"{path}, {where}: {' / '.join(asked)!r} here and {bare!r} in {QUESTIONS}", SOURCE)
    letter, kind = field(entry, "answer", path, where), field(entry, "data_type", path, where)
    if entry.get(CHOICES.get(letter, "")) is None:
        raise RequestError(f"{path}, {where}: the answer is none of the options: {letter[:60]!r}")
    if kind not in DATA_TYPES:
        raise RequestError(f"{path}, {where}: data_type is neither image nor video: {kind[:60]!r}")
    number = field(entry, "question_type_id", path, where)
    if number not in types:
        raise RequestError(f"{path}, {where}: 'question_type' names no type {number[:60]!r}")
    return letter, types[number], (f"data={kind}",)


def _plain(text: str) -> str:
    return " ".join(text.split())


def write_video_frames(eval_root: Path, sources: Mapping[str, Path]) -> Written:
    """Takes the middle frame of every video question out of its video, to where the questions name it.

    Frames that are there are left alone, so that it can be run again when a video has come.

    Args:
        sources: the folder of each of ``VIDEO_SOURCES`` that is there; questions on another are left out.

    Returns:
        What was written, and for each refused frame the reason: ``media_missing``, ``frames_damaged``, ...

    Raises:
        RequestError: an unknown or missing source, or a damaged annotation.
        ServiceError: the disk refused.
    """
    for source, folder in sources.items():
        if source not in VIDEO_SOURCES.values():
            raise RequestError(
                f"'{source}' is no source of SEED-Bench's videos", nearest(source, SOURCE_NAMES)
            )
        if not folder.is_dir():
            raise RequestError(f"no such folder: {folder}", f"give the folder of the {source} videos")
    path = eval_root / ANNOTATION
    clips: dict[str, Clip] = {}
    for number, row in enumerate(read_annotation(path)[0], 1):
        where = f"question {number}"
        of_type, row_id = (field(row, name, path, where) for name in ("question_type_id", "question_id"))
        source = VIDEO_SOURCES.get(of_type, "")
        if source in sources:
            name = medium_path(VIDEO_FRAMES, f"{of_type}_{row_id}.png", path, where)
            clips[name] = _clip(row, source, sources[source], path, where)
    return write_middle_frames(clips, Store(str(eval_root)))


def _clip(row: Row, source: str, folder: Path, path: Path, where: str) -> Clip:
    video = medium_path("", field(row, "data_id", path, where), path, where).removeprefix("/")
    names = [name + suffix for name in (video, PurePosixPath(video).name) for suffix in ("", *SUFFIXES)]
    found = next((name for name in names if (folder / name).is_file()), names[0])
    if source == "ssv2":
        return Clip(folder, found, ("whole", 0.0, 0.0))
    segment = row.get("segment")
    try:
        begin, end = (float(number) for number in segment or ())
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"{path}, {where}: the segment is not two numbers: {segment!r:.60}") from None
    return Clip(folder, found, ("seconds" if source == "epic_kitchens" else "frames", begin, end))


def as_it_stands(reply: str) -> str:
    return reply


def measure(table: GradedTable) -> list[Metric]:
    """``accuracy``, ``image``, ``video``, and accuracy by question type."""
    kinds = table.facet("data")
    return [*accuracies(table), *(proportion(kind, table.value, asked) for kind, asked in kinds.items())]


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """JSON lines ``{"question_id", "prediction"}`` in the order of the annotation, ids as it writes them."""
    answers = all_answered(questions, replies)
    said: dict[Any, str] = {same_id(q.row_id): reply for q, reply in zip(questions, answers, strict=True)}
    ids = [row["question_id"] for row in read_annotation(eval_root / ANNOTATION)[0]]
    rows = ({"question_id": row_id, "prediction": said[same_id(str(row_id))]} for row_id in ids)
    return [write_whole(out, "".join(f"{json.dumps(row)}\n" for row in rows).encode())]


BENCHMARK = Benchmark(
    name=NAME,
    title="SEED-Bench",
    media=MediumKind.IMAGE,
    folder=NAME,
    files=(ANNOTATION, QUESTIONS),
    read=read_questions,
    rule=ExactMatch(as_it_stands),
    measure=measure,
    primary="accuracy",
    upload=write_upload,
    media_sources=tuple(SOURCE_NAMES),
    extract=write_video_frames,
    source=SOURCE,
    published_elsewhere={"LLaVA-1.5-7B": 58.6, "LLaVA-1.5-13B": 61.6},
)
