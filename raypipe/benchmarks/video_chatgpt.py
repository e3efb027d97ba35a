"""Video-ChatGPT's generative benchmark: five aspects of long answers about videos, each judged from 0 to 5.

``generic_qa.json`` serves correctness, detail and context, ``temporal_qa.json`` temporal order, and
``consistency_qa.json``, whose records have two questions and one answer, consistency. Each question is
asked once: where the reference asks all of generic three times, one reply is judged for three aspects.
``row_id`` is ``<set>/<video_name>_<k>``, k counting the records of a video from 0, as in the judge's own key;
the two questions of a consistency record end in ``/1`` and ``/2``. A graded question carries the mark of
each aspect as a tag (``correctness=4``), and both questions of a consistency record carry its mark.

Scorer: Video-ChatGPT ``quantitative_evaluation`` (Video-LLaVA ``llava/eval/video/eval_benchmark_*.py``):
for each aspect the mean of the scores, cut to whole numbers. ``mean``, over the five aspects, is unknown
until each of them has a verdict.

Where raypipe differs: both questions of a consistency record are read (Video-LLaVA's evaluator reads Q1
twice); verdicts are joined by video, question and answer, as k shifts in the reference when its runner
drops a record; an unreadable score is counted and left out, while the reference stops there.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from raypipe.benchmark import Benchmark, make_question
from raypipe.eval_root import field, medium_path, read_json_rows
from raypipe.grading.aspects import aspect_metrics
from raypipe.grading.judging import asks_for_aspects, by_aspects
from raypipe.records import MediumKind, MediumRef, Question
from raypipe.stored_verdicts.aspects import read_aspects
from raypipe.video_qa import find_video

NAME = "video_chatgpt"
FOLDER = "Video_5_Benchmark"
VIDEOS = f"{FOLDER}/Test_Videos"
FILES = {name: f"{FOLDER}/Benchmarking_QA/{name}_qa.json" for name in ("generic", "temporal", "consistency")}
ASPECTS = {
    "correctness": "generic",
    "detail": "generic",
    "context": "generic",
    "temporal": "temporal",
    "consistency": "consistency",
}
PAIRS = "consistency"


def read_questions(eval_root: Path) -> list[Question]:
    """The questions of the three sets, which are their categories.

    Raises:
        RequestError: a damaged row, or a video's name that leads out of its folder.
    """
    media: dict[str, MediumRef] = {}
    questions = []
    for category, name in FILES.items():
        path = eval_root / name
        times: Counter[str] = Counter()
        for number, row in enumerate(read_json_rows(path), 1):
            where = f"row {number}"
            video, answer = field(row, "video_name", path, where), field(row, "A", path, where)
            if video not in media:
                media[video] = find_video(eval_root, medium_path(VIDEOS, video, path, where))
            row_id = f"{category}/{video}_{times[video]}"
            times[video] += 1
            asked = {"": "Q"} if category != PAIRS else {"/1": "Q1", "/2": "Q2"}
            for part, key in asked.items():
                text = field(row, key, path, where)
                questions.append(
                    make_question(NAME, row_id + part, media[video], text, text, answer, category)
                )
    return questions


BENCHMARK = Benchmark(
    name=NAME,
    title="Video-ChatGPT generative aspects",
    media=MediumKind.VIDEO,
    folder=FOLDER,
    files=tuple(FILES.values()),
    read=read_questions,
    measure=partial(aspect_metrics, aspects=ASPECTS),
    primary="mean",
    rubric=asks_for_aspects(NAME, ASPECTS, PAIRS),
    judged=partial(by_aspects, aspects=ASPECTS),
    verdicts=partial(read_aspects, aspects=ASPECTS, pairs=PAIRS),
    source="Questions (Benchmarking_QA) and videos (Test_Videos): Video-ChatGPT, "
    f"quantitative_evaluation/README.md; put both folders into {FOLDER} of the eval root.",
    max_new_tokens=1024,
    reference_template="llava_v1",
)
