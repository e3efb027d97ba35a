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

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from raypipe.benchmark import OPTION_LETTER, VIDEO_LLAVA, Benchmark, make_question
from raypipe.formats.option_tables import read_rotations, unpack_pictures, write_answered_table
from raypipe.grading.answers import option_letter
from raypipe.grading.circular import circular_metrics
from raypipe.grading.judging import by_choice
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, Question

NAME = "mmbench"
SPLITS = {
    "20230712": "mmbench/mmbench_dev_20230712.tsv",
    "en_20231003": "mmbench/mmbench_dev_en_20231003.tsv",
    "cn": "mmbench/mmbench_dev_cn_20231003.tsv",
}
SUFFIX = {"cn": "\n请直接回答选项字母。"}  # "answer directly with the option's letter"
DEFAULT = "20230712"
FACETS = {"category": "category", "l2": "l2-category"}  # and their columns
SOURCE = "the tables are on https://download.openmmlab.com/mmclassification/datasets/mmbench/"


def read_questions(eval_root: Path, split: str) -> list[Question]:
    """Every row of the split's table, in its order.

    Raises:
        RequestError: a damaged row, an answer that is no option, or an index that is there twice.
    """
    questions = []
    for row in read_rotations(eval_root / SPLITS[split], _pictures(split)):
        prompt = row.bare + SUFFIX.get(split, OPTION_LETTER)
        known = {facet: row.cells.get(column, "") for facet, column in FACETS.items()}
        tags = tuple(f"{facet}={value}" for facet, value in known.items() if value)
        questions.append(
            make_question(
                NAME, str(row.index), row.picture, prompt, row.bare, row.answer, known["category"], tags=tags
            )
        )
    return questions


def _pictures(split: str) -> str:
    return f"{NAME}/images/{split}"


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path, split: str
) -> list[Path]:
    return write_answered_table(eval_root / SPLITS[split], questions, replies, out)


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
        measure=partial(circular_metrics, facets=tuple(FACETS)),
        primary="circular",
        rubric="option",
        judged=by_choice,
        upload=partial(write_upload, split=split),
        unpack=partial(unpack_pictures, table=SPLITS[split], pictures=_pictures(split)),
        split=split,
        size=4_377 if split == DEFAULT else 0,
        source=SOURCE,
        max_new_tokens=1024,
        published={"circular": 60.9} if split == DEFAULT else {},
        published_source=VIDEO_LLAVA if split == DEFAULT else "",
        published_elsewhere=paper,
    )


BY_SPLIT = {split: _of_split(split) for split in SPLITS}
BENCHMARK = BY_SPLIT[DEFAULT]
