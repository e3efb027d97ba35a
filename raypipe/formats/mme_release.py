"""MME's release: a text file for each image, in it a line ``question TAB answer`` for each of its questions.

The calculator of the release takes a file for each task, of lines
``image name TAB question TAB answer TAB reply``. A tab or line break in a reply would shift its columns; a
space is written for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from raypipe.errors import RequestError
from raypipe.eval_root import first_present
from raypipe.eval_table import read_text_lines
from raypipe.records import Question
from raypipe.submission import all_answered, write_whole

YES_OR_NO = "Please answer yes or no."
BREAKS = str.maketrans("\t\n\r", "   ")


def read_image_answers(release: Path, image: str, source: str) -> dict[str, str]:
    """What the release asks of an image and answers, by the question's own wording.

    Args:
        image: ``<task>/<image name>``, or ``<task>/images/<image name>``.
        source: where the release is had, for a person without it.

    Raises:
        RequestError: there is no such file, or an answer is neither yes nor no.
    """
    task, name = image.partition("/")[0], f"{PurePosixPath(image).stem}.txt"
    path = first_present(release, f"{task}/questions_answers_YN/{name}", f"{task}/{name}")
    if not path.is_file():
        raise RequestError(f"no such file: {path}", source)
    truth = {}
    for number, line in read_text_lines(path):
        if line.strip():
            question, _, answer = line.strip().partition("\t")
            truth[question.strip()] = answer.strip()
            if answer.strip().lower() not in ("yes", "no"):
                raise RequestError(
                    f"{path}, line {number}: the answer is neither yes nor no: {answer[:60]!r}"
                )
    return truth


def wording_of(bare: str, truth: Mapping[str, str]) -> str | None:
    """The question as the release words it: LLaVA's converter adds its request after one space, else two."""
    bare = bare.strip()
    tries = [bare] if YES_OR_NO in bare else [f"{bare}{space}{YES_OR_NO}" for space in (" ", "  ")]
    return next((wording for wording in tries if wording in truth), None)


def write_calculator_files(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """The calculator's files, ``<out>/<task>.txt``, the lines of an image one after the other.

    Args:
        questions: their category is the task; ``extra`` has ``wording`` and ``answer`` as in the release.

    Raises:
        RequestError: a question has no reply.
    """
    lines: dict[str, dict[str, list[str]]] = {}
    for question, reply in zip(questions, all_answered(questions, replies), strict=True):
        name = f"{PurePosixPath(question.row_id).stem}.txt"
        cells = (name, question.extra["wording"], question.extra["answer"], reply.translate(BREAKS))
        lines.setdefault(question.category, {}).setdefault(question.row_id, []).append("\t".join(cells))
    return [
        write_whole(
            out / f"{task}.txt", "".join(f"{line}\n" for pair in pairs.values() for line in pair).encode()
        )
        for task, pairs in lines.items()
    ]
