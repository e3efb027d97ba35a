"""The plan of an evaluation: questions grouped by medium, in units with names made from content.

A unit is answered and committed whole. Its name holds the weights, the template, the sampling and
the prompts, so that another checkpoint or another wording never meets old answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.records import MediumKind, MediumRef, Question, fingerprint
from raypipe.settings import EvaluateSettings, Rendition, Sampling


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


@cache
def _UNIT() -> TypeAdapter[Unit]:
    return TypeAdapter(Unit)


def choose_benchmarks(settings: EvaluateSettings) -> tuple[list[benchmarks.Benchmark], dict[str, str]]:
    """The benchmarks to run, and, for ``all``, those whose data is missing with the missing path.

    Raises:
        RequestError: an unknown name or split, a named benchmark without data, or no data at all.
    """
    root = Path(settings.eval_root)
    if not root.is_dir():
        raise RequestError(
            f"no such eval root: {root}", "set eval_root=... to the folder laid out as the reference's eval/"
        )
    named = settings.benchmarks != "all"
    names = list(settings.benchmarks) if named else benchmarks.names()
    for name, split in settings.splits.items():
        benchmarks.load(name, split)
    chosen, missing = [], {}
    for name in names:
        benchmark = benchmarks.load(name, settings.splits.get(name))
        lack = benchmark.missing_data(root)
        if lack is None:
            chosen.append(benchmark)
        elif named:
            remedy = benchmark.source or f"fetch the benchmark's files into {root}"
            raise RequestError(f"{name}: no such file: {lack}", remedy)
        else:
            missing[name] = str(lack)
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
    benchmark: str, questions: Sequence[Question], asking: Asking, media_per_unit: int, root: Path
) -> list[Unit]:
    """Groups questions by medium, and media into units, in an order that does not depend on the file's.

    A unit's name holds the sizes of its media below ``root``, so that a file that was missing or cut short
    is asked about again once it is repaired.
    """
    by_medium: dict[str, list[Question]] = {}
    for question in questions:
        by_medium.setdefault(question.medium.path if question.medium else "", []).append(question)
    groups = [
        Group(asked[0].medium, tuple(sorted(asked, key=lambda q: q.id)))
        for _, asked in sorted(by_medium.items(), key=lambda item: fingerprint(item[0]))
    ]
    how = asking.name()
    units = []
    for start in range(0, len(groups), media_per_unit):
        part = tuple(groups[start : start + media_per_unit])
        ids = [q.id for g in part for q in g.questions]
        sizes = [_size(root / g.medium.path) if g.medium else 0 for g in part]
        units.append(Unit(fingerprint(benchmark, how, ids, sizes), benchmark, asking, part))
    return units


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return -1  # missing, or no path at all: the decoder says which


def kind_of(group: Group) -> MediumKind | None:
    return group.medium.kind if group.medium else None
