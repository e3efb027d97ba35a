"""MMBench dev: 1,176 multiple-choice questions, each asked in every rotation of its options (4,377 rows).

Published is ``circular``: a question counts only if every rotation is answered rightly; ``vanilla`` is the
share of right answers to the questions as they stand. A reply is read as ScienceQA's is: the letter, which
is all that LLaVA-1.5 ever says, or ``B. text``, or ``The answer is B.``. Any other is wrong, and ``failed``
says how many percent that are. The reference reads nothing: it sends the raw replies to MMBench's server,
which has a language model look for an option in those that name none, so that a talkative model may score
higher there. Where raypipe differs further: rotations are found by id (index modulo a million), whatever
their order; a question of which a rotation has no answer is missing, also if another rotation is wrong. The
instruction in Chinese is the reference's.

Pictures are base64 text in the table. ``unpack`` writes one file a question, for its rotations share it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from raypipe.benchmark import OPTION_LETTER, VIDEO_LLAVA, Benchmark, make_question
from raypipe.errors import RequestError
from raypipe.eval_table import read_table
from raypipe.grading.answers import UNREADABLE, option_letter
from raypipe.grading.metrics import GradedTable, Metric, all_right, by_facet, proportion
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, MediumRef, Question
from raypipe.store.files import Store
from raypipe.submission import all_answered, sheet, write_whole

NAME = "mmbench"
SPLITS = {
    "20230712": "mmbench/mmbench_dev_20230712.tsv",
    "en_20231003": "mmbench/mmbench_dev_en_20231003.tsv",
    "cn": "mmbench/mmbench_dev_cn_20231003.tsv",
}
SUFFIX = {"cn": "\n请直接回答选项字母。"}  # "answer directly with the option's letter"
DEFAULT = "20230712"
FACETS = ("category", "l2")
ROTATION = 1_000_000
INDEX = re.compile("[0-9]{1,9}")
LETTERS = "ABCD"
COLUMNS = ("index", "question", "A", "B", "answer", "image")
UPLOADED = ("index", "question", *LETTERS, "prediction", "answer", "split")
# What pandas reads as no value, and with it the reference; "nan" and "none" it adds in any case of letters.
NO_VALUE = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "n/a", "NULL", "null", "-NaN", "-nan"),
    )
)
SIGNATURES = {"iVBOR": ".png", "R0lG": ".gif", "UklG": ".webp"}  # how base64 of these begins; else a JPEG
SOURCE = "the tables are on https://download.openmmlab.com/mmclassification/datasets/mmbench/"

Cells = dict[str, str]


def read_rows(path: Path) -> Iterator[tuple[str, int, Cells]]:
    """Where each row begins, its index, and its cells; a cell without a value is empty.

    Raises:
        RequestError: damage, or an index that is no number.
    """
    for line, row in read_table(path, COLUMNS):
        cells = {name: "" if _is_no_value(cell) else cell for name, cell in row.items()}
        if not INDEX.fullmatch(cells["index"]):
            raise RequestError(f"{path}, line {line}: the index is not a number: {cells['index'][:60]!r}")
        yield f"line {line}", int(cells["index"]), cells


def read_questions(eval_root: Path, split: str) -> list[Question]:
    """Every row of the table, the rotations of a question about the same picture.

    Raises:
        RequestError: a damaged row, an answer that is no option, or an index that is there twice.
    """
    path = eval_root / SPLITS[split]
    pictures: dict[int, MediumRef] = {}
    seen: set[int] = set()
    questions = []
    for where, index, cells in read_rows(path):
        if index in seen:
            raise RequestError(f"{path}, {where}: index {index} is there twice")
        seen.add(index)
        base = index % ROTATION
        if base not in pictures:
            if not cells["image"]:
                raise RequestError(f"{path}, {where}: no picture")
            pictures[base] = MediumRef(MediumKind.IMAGE, _picture(split, base, cells["image"]))
        questions.append(_question(cells, index, pictures[base], split, path, where))
    return questions


def _question(cells: Cells, index: int, picture: MediumRef, split: str, path: Path, where: str) -> Question:
    options = {}
    for letter in LETTERS:
        if not cells.get(letter):
            break  # the first without a value is the end
        options[letter] = cells[letter]
    answer, hint, category = cells["answer"], cells.get("hint"), cells.get("category", "")
    if answer not in options:
        raise RequestError(f"{path}, {where}: the answer is none of the options: {answer[:60]!r}")
    lines = [hint] if hint else []
    bare = "\n".join([*lines, cells["question"], *(f"{k}. {v}" for k, v in options.items())])
    prompt = bare + SUFFIX.get(split, OPTION_LETTER)
    known = zip(FACETS, (category, cells.get("l2-category", "")), strict=True)
    tags = tuple(f"{facet}={value}" for facet, value in known if value)
    return make_question(NAME, str(index), picture, prompt, bare, answer, category, tags=tags)


def _is_no_value(cell: str) -> bool:
    return cell in NO_VALUE or cell.lower() in ("nan", "none")


def _picture(split: str, base: int, text: str) -> str:
    suffix = next((s for start, s in SIGNATURES.items() if text.startswith(start)), ".jpg")
    return f"{NAME}/images/{split}/{base}{suffix}"


def unpack(eval_root: Path, split: str) -> int:
    """Writes the pictures below ``mmbench/images/<split>``; one that is there with its size is left alone.

    Returns:
        How many were written.

    Raises:
        RequestError: a damaged row, text that is not base64, or rotations with different pictures; the
            pictures before it are written.
        ServiceError: the disk refused.
    """
    path, store = eval_root / SPLITS[split], Store(str(eval_root))
    digests: dict[int, bytes] = {}
    written = 0
    for where, index, cells in read_rows(path):
        base, text = index % ROTATION, cells["image"]
        digest = hashlib.sha256(text.encode()).digest()
        if base in digests:
            # Some releases name the first row in place of the picture.
            if digest != digests[base] and text not in ("", str(base)):
                raise RequestError(f"{path}, {where}: {index} has another picture than the other rotations")
            continue
        digests[base] = digest
        if not text:
            raise RequestError(f"{path}, {where}: no picture")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(f"{path}, {where}: the picture is not base64 text") from None
        name = _picture(split, base, text)
        if not store.exists(name) or store.size(name) != len(data):
            store.replace(name, data)
            written += 1
    return written


def measure(table: GradedTable) -> list[Metric]:
    """``circular``, ``vanilla``, ``accuracy`` of all rows, by category and level-2 category, ``failed``."""
    index = np.array([int(row) for row in table.row_id], dtype=np.int64)
    circular, asked = all_right(table, index % ROTATION)
    unread = np.where(np.isnan(table.value), np.nan, table.parsed == UNREADABLE)
    return [
        proportion("circular", circular, asked),
        proportion("vanilla", table.value, index < ROTATION),
        proportion("accuracy", table.value, table.everything),
        *(
            proportion(f"circular/{facet}={value}", circular, asked & member)
            for facet in FACETS
            for value, member in table.facet(facet).items()
        ),
        *by_facet(table, *FACETS),
        proportion("failed", unread, table.everything),
    ]


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path, split: str
) -> list[Path]:
    """The sheet that MMBench's server takes: a row each in the table's order, the raw reply beside it."""
    of_row = {
        int(question.row_id): reply
        for question, reply in zip(questions, all_answered(questions, replies), strict=True)
    }
    rows: list[list[str | int | None]] = []
    columns = UPLOADED
    for _, index, cells in read_rows(eval_root / SPLITS[split]):
        columns = tuple(name for name in UPLOADED if name in cells or name == "prediction")
        known = {**cells, "prediction": of_row[index]}
        rows.append([index, *(known[name] or None for name in columns[1:])])
    return [write_whole(out, sheet(columns, rows))]


def _of_split(split: str) -> Benchmark:
    paper = {"LLaVA-1.5-7B": 64.3, "LLaVA-1.5-13B": 67.7} if split == DEFAULT else {}
    return Benchmark(
        name=NAME,
        title=f"MMBench {split}",
        media=MediumKind.IMAGE,
        folder=NAME,
        files=(SPLITS[split],),
        read=partial(read_questions, split=split),
        rule=ExactMatch(option_letter),
        measure=measure,
        primary="circular",
        upload=partial(write_upload, split=split),
        unpack=partial(unpack, split=split),
        split=split,
        source=SOURCE,
        max_new_tokens=1024,
        published={"circular": 60.9} if split == DEFAULT else {},
        published_source=VIDEO_LLAVA if split == DEFAULT else "",
        published_elsewhere=paper,
    )


BY_SPLIT = {split: _of_split(split) for split in SPLITS}
BENCHMARK = BY_SPLIT[DEFAULT]
