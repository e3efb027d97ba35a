"""What an evaluation would do, take and cost; nothing is started, nothing is written, no weights are loaded.

Counts are exact: they come from the units that the run itself would carry out. What is committed in ``out``
is known by the units' names, which hold the weights; these are read only where there is something to compare.
A model at an address is not fetched for it: as long as it is not on this machine, nothing counts as answered.
Nor does anything of a model that is still to be trained; all that does not hang on it is counted.
The endpoint of a served model is not asked: what is committed counts as answered by what it serves now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from raypipe.benchmark import Asks, Benchmark, wants_judge
from raypipe.errors import RequestError
from raypipe.evaluate.commit import asked_again, committed_units, ledger_of
from raypipe.evaluate.engines import Subject, glance_at, subject_of
from raypipe.evaluate.memory import actor_memory
from raypipe.evaluate.plan import Unit, choose_benchmarks, located, named_benchmarks, units_of
from raypipe.evaluate.prepared import PreparedFrames, check_prepared
from raypipe.evaluate.tree import Tree, open_tree
from raypipe.judge.estimate import estimate, unanswered
from raypipe.model.cards import Card
from raypipe.model.facts import BYTES, cache_bytes_per_token, parameters_of
from raypipe.model.layouts import folder_of
from raypipe.model.near import bytes_to_fetch
from raypipe.model.read_outline import folder_outline
from raypipe.records import MediumKind, MediumRef, Prediction, predictions_of
from raypipe.settings import EvaluateSettings, JudgeSettings
from raypipe.store.files import Store
from raypipe.store.run import SETTINGS, Run

UNSEEN = Subject("", Card())


@dataclass
class Row:
    """One benchmark.

    Attributes:
        media: different files; ``media_missing`` of them are not there.
        packed: media that lie inside its annotations and are written when the run starts.
        answered: questions whose answers are committed; ``generations`` are to be made.
        decodes: media that are read and decoded for them, each once a unit.
        prepared: media that are taken from a prepare run in place of that, as far as it shows without reading
            a file: those that it read at the same place.
        judged: answers that a judge grades; where it only helps a rule, none.
    """

    benchmark: str
    split: str
    questions: int
    media: int
    media_missing: int
    packed: int
    units: int
    answered: int
    generations: int
    decodes: int
    prepared: int
    judged: int


def forecast(settings: EvaluateSettings) -> dict[str, Any]:
    """What ``raypipe evaluate`` with these settings would do.

    Returns:
        ``benchmarks`` (a row each), ``missing_benchmarks`` with the file that is not there, ``totals`` of the
        rows and the answers of the certificate, ``model``, and ``judge``: calls, tokens and cost of judging,
        and ``more_calls`` that come on top at most, where a rule cannot read an answer. ``lacks`` says why
        the model is not there yet; then nothing of it is known.

    Raises:
        RequestError: as ``evaluate``, as far as it shows without loading a model; ``out`` holds another run.
    """
    settings = located(settings)
    tree = open_tree(settings.eval_root, lambda: {b.folder for b in named_benchmarks(settings)})
    with tree.named():
        chosen, missing = choose_benchmarks(settings, tree)
        run, lacks = _there(settings), _lacks(settings)
        model = _model(settings, there=not lacks)
        if model["bytes_to_fetch"] or lacks:
            run, subject = None, UNSEEN
        else:
            weigh = run is not None and settings.served is None
            subject = subject_of(settings) if weigh else glance_at(settings)
            _check_frames(settings, subject)
        rows, answers, sizes = [], _Answers(run), _Sizes()
        for benchmark in sorted(chosen, key=lambda b: b.name):
            units = units_of(benchmark, settings, subject, tree)
            held = _held(run, units, settings) if run else set()
            row = _row(units, held, tree, settings)
            sizes.add(units)
            row.benchmark, row.split = benchmark.name, benchmark.split
            row.judged = row.questions if benchmark.rubric is not None and benchmark.rule is None else 0
            answers.add(benchmark, units, held)
            if benchmark.unpack is not None:
                row.packed, row.media_missing = row.media_missing, 0
            rows.append(row)
    return {
        "out": settings.out,
        "lacks": lacks,
        "benchmarks": [asdict(row) for row in rows],
        "missing_benchmarks": missing,
        "totals": _totals(rows, settings),
        "model": model | {"actor": _actor(settings, sizes)},
        "judge": answers.judging(settings),
    }


@dataclass
class _Sizes:
    """What the longest prompt and answer are made of."""

    chars: int = 0
    new_tokens: int = 0
    kinds: set[MediumKind] = field(default_factory=set)

    def add(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self.new_tokens = max(self.new_tokens, unit.asking.max_new_tokens)
            for group in unit.groups:
                self.kinds |= {group.medium.kind} if group.medium else set()
                self.chars = max(self.chars, *(len(question.prompt) for question in group.questions))


class _Answers:
    """The answers to judge: those that are there, and questions in the place of the others."""

    def __init__(self, run: Run | None) -> None:
        self._run = run
        self._rubrics: dict[str, Asks | None] = {}
        self._surely: list[Prediction] = []
        self._perhaps: list[Prediction] = []

    def add(self, benchmark: Benchmark, units: Sequence[Unit], held: set[str]) -> None:
        if benchmark.rubric is None:
            return
        self._rubrics[benchmark.name] = benchmark.rubric
        todo = [unanswered(q) for u in units if u.id not in held for g in u.groups for q in g.questions]
        if held:
            of_units = {q.id for u in units if u.id in held for g in u.groups for q in g.questions}
            there = [p for p in self._committed if p.question_id in of_units]
            self._surely += [p for p in there if wants_judge(benchmark, p)]
        (self._surely if benchmark.rule is None else self._perhaps).extend(todo)

    @cached_property
    def _committed(self) -> list[Prediction]:
        return predictions_of(ledger_of(self._run).rows()) if self._run else []

    def judging(self, settings: EvaluateSettings) -> dict[str, Any]:
        judge, store = settings.judge or JudgeSettings(), self._run.store if self._run else None
        found = estimate(self._surely, self._rubrics.get, judge, run_store=store)
        more = estimate(self._perhaps, self._rubrics.get, judge)
        named = {"name": judge.name, "model": judge.model} if settings.judge else {}
        return {**named, **found.row(), "more_calls": more.calls}


def _there(settings: EvaluateSettings) -> Run | None:
    """The run in ``out``, if there is one."""
    run = Run(settings.out)
    if not run.store.exists(SETTINGS):
        return None
    run.check_identity("evaluate", settings)
    return run


def _held(run: Run, units: Sequence[Unit], settings: EvaluateSettings) -> set[str]:
    """The units that are committed."""
    if settings.served is None:
        return committed_units(run, {u.id for u in units}, retry_bad=settings.retry_bad)
    rows = ledger_of(run).rows()
    again = asked_again(run, settings.retry_bad)
    answered = {row["question_id"] for row in rows if row["outcome"] not in again}
    return {u.id for u in units if all(q.id in answered for g in u.groups for q in g.questions)}


def _check_frames(settings: EvaluateSettings, subject: Subject) -> None:
    card = subject.card
    check_prepared(
        settings.prepared, settings.sampling or card.sampling, settings.rendition or card.rendition
    )


def _row(units: Sequence[Unit], held: set[str], tree: Tree, settings: EvaluateSettings) -> Row:
    todo = [u for u in units if u.id not in held]
    everything = {g.medium for u in units for g in u.groups if g.medium}
    sizes = tree.sizes([m.path for m in everything])
    reads = [m for u in todo for m in _media(u)]
    taken: set[MediumRef] = set()
    if settings.prepared and todo:
        asking = todo[0].asking
        frames = PreparedFrames(settings.prepared, tree.media)
        taken = frames.at_their_place(set(reads), asking.sampling, asking.rendition)
    questions = sum(u.count for u in units)
    generations = sum(u.count for u in todo)
    return Row(
        benchmark="",
        split="",
        questions=questions,
        media=len(everything),
        media_missing=sum(size < 0 for size in sizes.values()),
        packed=0,
        units=len(todo),
        answered=questions - generations,
        generations=generations,
        decodes=sum(m not in taken for m in reads),
        prepared=len(taken),
        judged=0,
    )


def _media(unit: Unit) -> set[MediumRef]:
    return {g.medium for g in unit.groups if g.medium}


def _totals(rows: Sequence[Row], settings: EvaluateSettings) -> dict[str, int]:
    names = [n for n, value in vars(rows[0]).items() if isinstance(value, int)]
    totals = {name: sum(getattr(row, name) for row in rows) for name in names}
    return {**totals, "certificate": min(settings.certificate, totals["questions"])}


def _actor(settings: EvaluateSettings, sizes: _Sizes) -> dict[str, Any] | None:
    """Memory of an actor; None where weights are not on this machine, or of a shape that is not known."""
    if settings.served is not None:
        return None
    try:
        outline, _ = folder_outline(settings.model, settings.model_base)
    except RequestError:
        return None
    return actor_memory(
        outline,
        precision=settings.precision,
        batch=settings.batch,
        kinds=sizes.kinds,
        question_chars=sizes.chars,
        new_tokens=sizes.new_tokens,
        on_gpu=settings.actor_gpus > 0,
    ).row()


def _folders(settings: EvaluateSettings) -> list[str]:
    """The paths of the weights; none of a served model."""
    paths = (settings.model, settings.model_base) if settings.served is None else ()
    return [path for path in paths if path]


def _lacks(settings: EvaluateSettings) -> list[str]:
    """Which models are not there yet.

    Raises:
        RequestError: something else lies in the place of one.
    """
    found = []
    for path in _folders(settings):
        try:
            bytes_to_fetch(path) if "://" in path else folder_of(path)
        except RequestError as fault:
            if not _to_come(path):
                raise
            found.append(fault.message)
    return found


def _to_come(path: str) -> bool:
    """Nothing lies there, or a training that is not finished."""
    if not (Store(path).states() if "://" in path else Path(path).exists()):
        return True
    run = Run(path)
    return run.store.exists(SETTINGS) and run.kind == "train" and not run.complete


def _model(settings: EvaluateSettings, *, there: bool) -> dict[str, Any]:
    """Size of the weights and of the cache, where the model's files say so."""
    served, paths = settings.served is not None, _folders(settings) if there else []
    facts: dict[str, Any] = {
        "model": settings.model,
        "bytes_to_fetch": sum(bytes_to_fetch(path) for path in paths if "://" in path),
        "parameters": None,
        "weight_bytes": None,
        "cache_bytes_per_token": None,
    }
    if facts["bytes_to_fetch"] or served or not there:
        return facts
    folders = [folder_of(path) for path in paths]
    counts = [parameters_of(folder) for folder in folders]
    known = [count for count in counts if count is not None]
    if len(known) == len(counts):
        facts |= {"parameters": sum(known), "weight_bytes": sum(known) * BYTES[settings.precision]}
    caches = [cache_bytes_per_token(folder, settings.precision) for folder in folders]
    return {**facts, "cache_bytes_per_token": next((c for c in caches if c is not None), None)}
