"""The plan of an evaluation: questions grouped by medium, in units with names made from content.

A unit is answered and committed whole. Its name holds the weights, the template, the sampling and
the prompts, so that another checkpoint or another wording never meets old answers. Units are the same
whatever carries them out, so that a run may go on with another number of workers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

from pydantic import TypeAdapter

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.evaluate.engines import Subject, subject_of
from raypipe.evaluate.prepared import check_prepared
from raypipe.evaluate.tree import Tree, open_tree
from raypipe.records import MediumKind, MediumRef, Question, fingerprint
from raypipe.settings import EvaluateSettings, Rendition, Sampling, local


@dataclass(frozen=True)
class Asking:
    """How the questions of one benchmark are put to the model; part of each prediction's key."""

    weights: str
    template: str
    aspect: str
    sampling: Sampling
    rendition: Rendition
    control: str
    max_new_tokens: int
    precision: str
    split: str = ""

    def name(self) -> str:
        fields = {
            **asdict(self),
            "sampling": self.sampling.model_dump(),
            "rendition": self.rendition.model_dump(),
        }
        if not self.split:  # as it was before there were splits, so that older answers keep their names
            del fields["split"]
        return fingerprint(fields)


@dataclass(frozen=True)
class Group:
    """All questions on one medium; the medium is read and encoded once for them."""

    medium: MediumRef | None
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Unit:
    """Some media of one benchmark with all their questions."""

    id: str
    benchmark: str
    asking: Asking
    groups: tuple[Group, ...]

    def pack(self) -> str:
        """As text, to travel through Ray Data without being pickled."""
        return _UNIT().dump_json(self).decode()

    @classmethod
    def unpack(cls, text: str) -> Unit:
        return _UNIT().validate_json(text)

    @property
    def count(self) -> int:
        return sum(len(g.questions) for g in self.groups)

    @property
    def media(self) -> int:
        return sum(1 for g in self.groups if g.medium)


@dataclass(frozen=True)
class Plan:
    """What an evaluation does: its units, those with open answers first, so that judging starts early.

    Attributes:
        missing: benchmarks without data, with the file that is not there.
        benchmarks: those that are asked, by name.
        certified: the questions to be asked once more, one at a time.
        retry_bad: committed units with a medium that could not be shown are carried out again.
    """

    units: tuple[Unit, ...]
    missing: Mapping[str, str]
    benchmarks: Mapping[str, benchmarks.Benchmark]
    weights: str
    certified: frozenset[str]
    tree: Tree
    retry_bad: bool = False


def located(settings: EvaluateSettings) -> EvaluateSettings:
    """The settings with paths that hold on every worker."""
    served = settings.engine == "served"
    return settings.model_copy(
        update={
            "out": local(settings.out),
            "eval_root": local(settings.eval_root),
            "model": settings.model if served else local(settings.model),
            "model_base": local(settings.model_base) if settings.model_base else None,
            "prepared": [local(path) for path in settings.prepared],
        }
    )


def make_plan(settings: EvaluateSettings) -> Plan:
    """Plans an evaluation. Writes nothing, but for media that lie inside a benchmark's annotations.

    Raises:
        RequestError: an unknown benchmark, no model, no data, or damaged data.
    """
    tree = open_tree(settings.eval_root, lambda: {b.folder for b in named_benchmarks(settings)})
    with tree.named():
        return _plan_of(settings, tree)


def _plan_of(settings: EvaluateSettings, tree: Tree) -> Plan:
    chosen, missing = choose_benchmarks(settings, tree)
    subject = subject_of(settings)
    shown = (settings.sampling or subject.card.sampling, settings.rendition or subject.card.rendition)
    check_prepared(settings.prepared, *shown)
    units: list[Unit] = []
    for benchmark in sorted(chosen, key=lambda b: (b.rubric is None, b.name)):
        if benchmark.unpack is not None:
            tree.unpack(benchmark.unpack, benchmark.folder)  # before the media's sizes are looked at
        units += units_of(benchmark, settings, subject, tree)
    chosen_questions = frozenset(_sample(units, settings.certificate))
    named = {b.name: b for b in chosen}
    weights = subject.weights
    return Plan(tuple(units), missing, named, weights, chosen_questions, tree, settings.retry_bad)


def units_of(
    benchmark: benchmarks.Benchmark, settings: EvaluateSettings, subject: Subject, tree: Tree
) -> list[Unit]:
    """The units of one benchmark.

    Raises:
        RequestError: its files are damaged.
    """
    questions = benchmark.questions(tree.annotations)[: settings.limit]
    asking = asking_for(benchmark, settings, subject.weights, subject.card)
    sizes = (settings.media_per_unit, settings.questions_per_unit)
    return plan_units(benchmark.name, questions, asking, *sizes, tree)


@cache
def _UNIT() -> TypeAdapter[Unit]:
    return TypeAdapter(Unit)


def named_benchmarks(settings: EvaluateSettings) -> list[benchmarks.Benchmark]:
    """The benchmarks that are asked for, in the splits that are asked for, whether or not they have data.

    Raises:
        RequestError: an unknown name or split.
    """
    names = benchmarks.names() if settings.benchmarks == "all" else settings.benchmarks
    for name, split in settings.splits.items():
        benchmarks.load(name, split)
    return [benchmarks.load(name, settings.splits.get(name)) for name in names]


def choose_benchmarks(
    settings: EvaluateSettings, tree: Tree
) -> tuple[list[benchmarks.Benchmark], dict[str, str]]:
    """The benchmarks to run, and, for ``all``, those whose data is missing with the missing path.

    Raises:
        RequestError: an unknown name or split, a named benchmark without data, or no data at all.
    """
    root = settings.eval_root
    named = settings.benchmarks != "all"
    chosen, missing = [], {}
    for benchmark in named_benchmarks(settings):
        lack = benchmark.missing_data(tree.annotations)
        if lack is None:
            chosen.append(benchmark)
        elif named:
            remedy = benchmark.source or f"fetch the benchmark's files into {root}"
            raise RequestError(f"{benchmark.name}: no such file: {lack}", remedy)
        else:
            missing[benchmark.name] = tree.said(lack)
    if not chosen:
        raise RequestError(
            f"no benchmark has its data below {root}", "see docs/from_video_llava.md for the layout"
        )
    return chosen, missing


def asking_for(
    benchmark: benchmarks.Benchmark, settings: EvaluateSettings, weights: str, card: Any
) -> Asking:
    """How this benchmark is asked: as the model was trained, or as the reference's scripts did."""
    reference = settings.protocol == "reference"
    return Asking(
        weights=weights,
        template=benchmark.reference_template if reference else card.template,
        aspect=("pad" if benchmark.pad else "square") if reference else card.image_aspect,
        sampling=settings.sampling or card.sampling,
        rendition=settings.rendition or card.rendition,
        control=settings.control,
        max_new_tokens=settings.max_new_tokens or benchmark.max_new_tokens,
        precision=settings.precision,
        split=benchmark.split,
    )


def plan_units(
    benchmark: str,
    questions: Sequence[Question],
    asking: Asking,
    media_per_unit: int,
    questions_per_unit: int,
    tree: Tree,
) -> list[Unit]:
    """Groups questions by medium, and media into units, in an order that does not depend on the file's.

    A unit's name holds the sizes of its media, so that a file that was missing or cut short is asked about
    again once it is repaired. A medium with more questions than a unit takes has units of its own.
    """
    by_medium: dict[str, list[Question]] = {}
    for question in questions:
        by_medium.setdefault(question.medium.path if question.medium else "", []).append(question)
    groups = [
        Group(asked[0].medium, tuple(sorted(asked, key=lambda q: q.id)))
        for _, asked in sorted(by_medium.items(), key=lambda item: fingerprint(item[0]))
    ]
    sizes = tree.sizes([g.medium.path for g in groups if g.medium])
    how = asking.name()
    units = []
    for part in _parts(groups, media_per_unit, questions_per_unit):
        ids = [q.id for g in part for q in g.questions]
        measured = [sizes[g.medium.path] if g.medium else 0 for g in part]
        units.append(Unit(fingerprint(benchmark, how, ids, measured), benchmark, asking, part))
    return units


def _parts(groups: Sequence[Group], media: int, questions: int) -> Iterator[tuple[Group, ...]]:
    """Media in parts of at most so many, and of at most so many questions each."""
    part: list[Group] = []
    for group in groups:
        count = len(group.questions)
        if part and (len(part) == media or sum(len(g.questions) for g in part) + count > questions):
            yield tuple(part)
            part = []
        for start in range(0, count, questions):
            part.append(Group(group.medium, group.questions[start : start + questions]))
            if count > questions:
                yield tuple(part)
                part = []
    if part:
        yield tuple(part)


def _sample(units: Sequence[Unit], count: int) -> Collection[str]:
    """The ids of so many questions, by their content, taken from the benchmarks in turn."""
    by_benchmark: dict[str, list[str]] = {}
    for unit in units:
        ids = [q.id for g in unit.groups for q in g.questions]
        by_benchmark.setdefault(unit.benchmark, []).extend(ids)
    ordered = [sorted(ids, key=lambda i: fingerprint("certificate", i)) for ids in by_benchmark.values()]
    return [i for row in zip_longest(*ordered) for i in row if i is not None][:count]


def kind_of(group: Group) -> MediumKind | None:
    return group.medium.kind if group.medium else None
