"""What a benchmark is: where its questions are, what is asked, how a reply is graded and measured.

A benchmark is one file in ``raypipe/benchmarks/`` with one ``BENCHMARK``, found by the file's name. It
knows its data and its scorer; it never knows a model, a number of frames, a temperature or a judge's address.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypipe.errors import RequestError, nearest, remedied
from raypipe.grading.answers import UNREADABLE
from raypipe.grading.judging import Asks, Judged, by_verdict
from raypipe.grading.metrics import (
    ANSWERED,
    Graded,
    GradedTable,
    Metric,
    averaged,
    graded_from_verdict,
    score_of,
    tabulate,
    ungraded,
)
from raypipe.grading.rules import Rule
from raypipe.records import MediumKind, MediumRef, Outcome, Prediction, Question, Score, Verdict, fingerprint

if TYPE_CHECKING:
    from raypipe.media.middle_frame import Written

__all__ = [
    "ONE_WORD",
    "OPTION_LETTER",
    "VIDEO_LLAVA",
    "Asks",
    "Benchmark",
    "Graded",
    "Judged",
    "Stored",
    "Upload",
    "VerdictReader",
    "grade",
    "grade_answer",
    "graded_from_verdict",
    "load",
    "make_question",
    "names",
    "scores",
    "scores_of_runs",
    "splits",
    "ungraded",
    "wants_judge",
    "without_suffix",
]

PACKAGE = "raypipe.benchmarks"
ONE_WORD = "\nAnswer the question using a single word or phrase."
VIDEO_LLAVA = "Video-LLaVA-7B (arXiv 2311.10122)"
OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Stored:
    """Verdicts as a judge left them: one dictionary by question id for each run of the judge.

    ``rows`` are the verdicts read and ``extra`` those of them that belong to no question.
    """

    runs: Sequence[Mapping[str, Graded]]
    rows: int
    extra: int = 0


# Takes the questions and the files (or folders); raises RequestError for what is damaged or does not fit.
VerdictReader = Callable[[Sequence[Question], Sequence[Path]], Stored]
# Takes eval root, questions, replies by question id and the place to write to; returns the files it wrote.
# Everything is checked before the first byte is written: a RequestError leaves nothing behind.
Upload = Callable[[Path, Sequence[Question], Mapping[str, str], Path], list[Path]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: the file's name in ``raypipe/benchmarks/``.
        title: how papers call it.
        media: what a question is about.
        folder: its folder below the eval root.
        files: the annotation files it cannot do without, below the eval root; a tuple names
            alternative places of one file.
        read: reads the questions, given the eval root.
        measure: its metrics over graded questions, in percent (a judge's ``score`` in 0..5).
        primary: the metric a paper prints.
        rule: grades a reply against the reference; None if a judge is needed, or if the answers are secret.
        rubric: the judge's rubric, by its name in ``grading.rubrics``, or several; None if no judge is asked.
            With a rule beside it, the judge is asked where the rule could not read a reply (``wants_judge``).
        judged: makes a graded question of the judge's verdicts on it, of which there may be none.
        verdicts: reads the verdicts that the reference's judge stores; None where no judge is needed.
        named_by_verdicts: the questions that stored verdicts name, for a tree without question files; media
            and references are then unknown and not compared.
        upload: writes what an evaluation server takes; None where there is no server.
        unpack: writes the media that lie inside the annotations to where the questions name them, and
            returns how many; needed before a model is asked, never for scores. None where media are files.
        media_sources: names of the folders that ``extract`` makes media from; not all need be there.
        extract: takes the eval root and the folders by name, and writes media that are not had as files.
        split: which of several question sets this is; empty where there is one. See ``load``.
        source: where its data are to be had, for a person who has none of them.
        size: how many questions the published set has; 0 where that is not known.
        max_new_tokens: the longest answer.
        pad: the reference pads images to a square (``protocol=reference`` only; corrected always pads).
        reference_template: the chat template the reference asks with.
        published: Video-LLaVA-7B's scores by metric, as printed, and ``published_source`` where.
        published_elsewhere: the primary metric by name of another model.
    """

    name: str
    title: str
    media: MediumKind
    folder: str
    files: tuple[str | tuple[str, ...], ...]
    read: Callable[[Path], list[Question]]
    measure: Callable[[GradedTable], list[Metric]]
    primary: str
    rule: Rule | None = None
    rubric: Asks | None = None
    judged: Judged = by_verdict
    verdicts: VerdictReader | None = None
    named_by_verdicts: Callable[[Sequence[Path]], list[Question]] | None = None
    upload: Upload | None = None
    unpack: Callable[[Path], int] | None = None
    media_sources: tuple[str, ...] = ()
    extract: Callable[[Path, Mapping[str, Path]], Written] | None = None
    split: str = ""
    source: str = ""
    size: int = 0
    max_new_tokens: int = 128
    pad: bool = True
    reference_template: str = "v1"
    published: Mapping[str, float] = field(default_factory=dict)
    published_source: str = ""
    published_elsewhere: Mapping[str, float] = field(default_factory=dict)  # LLaVA's model zoo

    def missing_data(self, eval_root: str | Path) -> str | None:
        """The first annotation file that is not there, or None when all are."""
        for places in self.files:
            choices = (places,) if isinstance(places, str) else places
            if not any((Path(eval_root) / name).is_file() for name in choices):
                return str(Path(eval_root) / choices[0])
        return None

    @remedied("compare the file with its source; raypipe doctor --eval-root DIR looks at them all")
    def questions(self, eval_root: str | Path) -> list[Question]:
        """All questions, in the benchmark's own order.

        Media are named relative to the eval root and need not exist: a question whose medium is missing
        ends in an outcome of its own when it is evaluated.

        Raises:
            RequestError: a file is missing or damaged (with file and line), files disagree, there is no
                question, or two questions are the same in id, medium and prompt.
        """
        missing = self.missing_data(eval_root)
        if missing:
            raise RequestError(
                f"{self.name}: no such file: {missing}",
                self.source or f"unpack the benchmark's annotations into {Path(eval_root) / self.folder}",
            )
        questions = self.read(Path(eval_root))
        if not questions:
            raise RequestError(f"{self.name}: no question in {Path(eval_root) / self.folder}")
        seen = Counter(question.id for question in questions)
        twice = next((q for q in questions if seen[q.id] > 1), None)
        if twice is not None:
            raise RequestError(f"{self.name}: question {twice.row_id!r} is there twice, word for word")
        return questions

    def metrics(self, graded: Sequence[Graded]) -> dict[str, float]:
        """Value of each metric; nan where no question it is about has been answered."""
        return {score.metric: score.value for score in scores(self, graded)}


def names() -> list[str]:
    """The names of all benchmarks, in alphabetical order."""
    package = importlib.import_module(PACKAGE)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(name: str, split: str | None = None) -> Benchmark:
    """The benchmark of that name.

    Args:
        split: one of ``splits(name)``; None is the one that the reference's guide uses.

    Raises:
        RequestError: there is no such benchmark or split; the nearest name is given.
    """
    if name not in names():
        raise RequestError(f"no benchmark is called '{name}'", nearest(name, names(), shown=20))
    module = importlib.import_module(f"{PACKAGE}.{name}")
    known: Mapping[str, Benchmark] = getattr(module, "BY_SPLIT", {})
    benchmark: Benchmark = module.BENCHMARK
    if split is None or split == benchmark.split:
        return benchmark
    if split not in known:
        raise RequestError(f"{name} has no split '{split}'", nearest(split, list(known), shown=20))
    return known[split]


def splits(name: str) -> list[str]:
    """The question sets of a benchmark; empty where there is only one."""
    load(name)
    return list(getattr(importlib.import_module(f"{PACKAGE}.{name}"), "BY_SPLIT", {}))


def make_question(
    benchmark: str,
    row_id: str,
    medium: MediumRef | None,
    prompt: str,
    question: str,
    reference: str,
    category: str = "",
    extra: dict[str, Any] | None = None,
    tags: tuple[str, ...] = (),
) -> Question:
    """A question whose id is made from what is asked about what, so that it survives any reordering."""
    return Question(
        id=fingerprint(benchmark, row_id, medium.path if medium else None, prompt),
        benchmark=benchmark,
        row_id=row_id,
        medium=medium,
        prompt=prompt,
        question=question,
        reference=reference,
        category=category,
        extra=extra or {},
        tags=tags,
    )


def without_suffix(prompt: str, suffix: str, path: Path, where: str) -> str:
    """The bare question of a prompt that ends in the benchmark's answering instruction.

    Raises:
        RequestError: it does not; then this is not the question file the published scores were made with.
    """
    if not prompt.endswith(suffix):
        raise RequestError(f"{path}, {where}: the text does not end in {suffix.strip()!r}")
    return prompt.removesuffix(suffix)


def grade(benchmark: Benchmark, item: Question | Prediction, text: str) -> Graded:
    """Grades a reply by the benchmark's rule; white space around it does not count.

    An empty reply is graded as it stands and keeps the outcome ``empty``. A prediction that was never
    made (bad medium, failed generation) has no value.

    Raises:
        RequestError: the benchmark has no rule; its answers are judged.
    """
    if benchmark.rule is None:
        raise RequestError(f"{benchmark.name} has no rule: its answers are judged", "raypipe judge RUN")
    if isinstance(item, Prediction) and item.outcome not in ANSWERED:
        return ungraded(item, item.outcome)
    reply = text.strip()
    mark = benchmark.rule(item.reference, reply)
    outcome = Outcome.OK if reply else Outcome.EMPTY
    return replace(ungraded(item, outcome), value=mark.value, parsed=mark.parsed)


def grade_answer(
    benchmark: Benchmark, prediction: Prediction, verdicts: Sequence[Verdict] | None = None
) -> Graded:
    """What an answer is worth: by the rule, by the judge's verdicts, or not known where there is neither."""
    found = verdicts or ()
    if benchmark.rule is None and benchmark.rubric is None:
        return ungraded(prediction, prediction.outcome)
    if benchmark.rule is None or (found and wants_judge(benchmark, prediction)):
        return benchmark.judged(prediction, found)
    return grade(benchmark, prediction, prediction.text)


def wants_judge(benchmark: Benchmark, prediction: Prediction) -> bool:
    """Whether a judge is to be asked: there is an answer, a rubric, and no rule that can read it."""
    if benchmark.rubric is None or prediction.outcome not in ANSWERED:
        return False
    return benchmark.rule is None or grade(benchmark, prediction, prediction.text).parsed == UNREADABLE


def scores_of_runs(benchmark: Benchmark, runs: Sequence[Sequence[Graded]]) -> list[Score]:
    """As ``scores``, of several judgements of the same answers: each metric is its mean over the runs.

    Args:
        runs: each with all questions.
    """
    tables = [tabulate(graded) for graded in runs]
    metrics = averaged([benchmark.measure(table) for table in tables])
    return [score_of(benchmark.name, metric, tables[0]) for metric in metrics]


def scores(benchmark: Benchmark, graded: Sequence[Graded]) -> list[Score]:
    """Every metric of the benchmark with its 95 % interval, clustered by medium.

    Proportions get Wilson's interval at their effective sample size, other metrics a cluster bootstrap
    with a fixed seed. ``n`` and ``missing`` are the questions with and without a value; the missing ones
    are left out of the metric.
    """
    return scores_of_runs(benchmark, [graded])
