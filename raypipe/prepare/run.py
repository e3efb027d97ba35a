"""The prepare verb: annotations + media -> shards, quarantine, manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from raypipe.cluster import require_shared
from raypipe.errors import BudgetError
from raypipe.prepare.commit import Check, commit
from raypipe.prepare.held import UNITS, Record, held_by, plan_units, recipe, record_name, reusable
from raypipe.prepare.progress import Tally
from raypipe.prepare.read import Annotations
from raypipe.prepare.survey import Survey, survey
from raypipe.prepare.units import PLAN, Plan, UnitRef
from raypipe.prepare.work import Work
from raypipe.records import fingerprint
from raypipe.settings import DatasetSettings, identity
from raypipe.store.lease import Lease
from raypipe.store.run import Run

Executor = Callable[[Sequence[UnitRef], Work], Iterable[Record]]
Progress = Callable[[Tally], None]


def prepare(
    settings: DatasetSettings, *, progress: Progress | None = None, execute: Executor | None = None
) -> dict[str, Any]:
    """Prepares one dataset, or continues it.

    Args:
        progress: called with the state of the work whenever a unit is done.
        execute: what carries out the units; Ray Data unless said otherwise.

    Returns:
        the totals of the manifest.

    Raises:
        RequestError: missing data root or annotation file, another run in the folder, or a local path that
            not all nodes share.
        ServiceError: the store refuses, or another driver is at work on the folder.
        BudgetError: more records in quarantine than the error budget allows; the rest is committed.
    """
    annotations = Annotations(settings)  # first, so that a wrong request leaves no folder behind
    others = reusable(settings)
    found = survey(settings, annotations)
    if execute is None:
        require_shared([settings.out], [settings.data_root, *settings.reuse])
    run = Run.start(settings.out, "prepare", settings)
    inputs = _inputs(settings, annotations, found)
    parents = [other.lineage() for other in others]
    totals = _finished(run, inputs, parents, settings)
    if totals is None:
        with Lease.take(run.store) as lease:
            plan = _plan(run, settings, found, inputs, others)
            records = _carry_out(run, settings, plan, progress, execute, lease.check)
            lease.seal()
            totals = commit(run, settings, annotations, found, plan, records, inputs, parents, lease.check)
            lease.finish()
    check_budget(run, totals, settings.error_budget)
    return totals


def check_budget(run: Run, totals: dict[str, int], budget: float) -> None:
    """Refuses, after the commit, a run with more bad records than the budget allows."""
    bad, inputs = totals["quarantined"], totals["inputs"]
    if inputs and bad / inputs > budget:
        raise BudgetError(
            f"{bad} of {inputs} records ({100 * bad / inputs:.1f} %) are in quarantine, the error budget is "
            f"{100 * budget:.1f} %; the {totals['ok']} good ones are committed in {run.store.root}",
            f"look at {run.store.root}/quarantine.jsonl, repair and run again, or raise error_budget=",
            totals,
        )


def _inputs(settings: DatasetSettings, annotations: Annotations, found: Survey) -> dict[str, Any]:
    """What a run is made from, as its manifest states it."""
    return {
        "annotations": annotations.fingerprint,
        "media": found.fingerprint(),
        "recipe": fingerprint(recipe(settings)),
        "removal": found.removal,
    }


def _finished(
    run: Run, inputs: dict[str, Any], parents: list[dict[str, str]], settings: DatasetSettings
) -> dict[str, int] | None:
    """The totals of a run that is complete, made from the same and still all there."""
    if settings.retry_quarantined or not run.complete:
        return None
    manifest = run.manifest
    if manifest["inputs"] != inputs or manifest["parents"] != parents:
        return None
    there = {*run.store.list()} - {*run.store.list(UNITS)}
    there |= {record_name(unit) for unit in held_by(run.store).records}  # a torn record is as good as none
    return manifest["totals"] if all(f["path"] in there for f in manifest["files"]) else None


def _plan(
    run: Run, settings: DatasetSettings, found: Survey, inputs: dict[str, Any], others: Sequence[Run]
) -> Plan:
    """The plan that was made for these inputs, or a new one."""
    own = held_by(run.store)
    parts = [identity(settings), inputs, [other.lineage()["manifest_sha256"] for other in others]]
    if settings.retry_quarantined:
        wanted = {m.key for m in found.media}
        rejected = own.rejected()
        parts.append(sorted({unit for key in rejected.keys() & wanted for unit in rejected[key]}))
    name = f"{PLAN}/{fingerprint(*parts)}.arrow"
    if run.store.exists(name):
        return Plan.read(run.store, name)
    units = plan_units(settings, found.media, own, [held_by(other.store) for other in others])
    return Plan.make(run.store, name, units)


def _carry_out(
    run: Run,
    settings: DatasetSettings,
    plan: Plan,
    progress: Progress | None,
    execute: Executor | None,
    check: Check,
) -> list[Record]:
    """Carries out what is not committed yet; all records, in the order of the plan."""
    done = held_by(run.store).records
    todo = [u for u in plan.units if u.id not in done]
    todo.sort(key=lambda u: (-u.weight, u.id))  # the heaviest first, so that none is left over at the end
    tally = Tally.start(plan.units, todo)
    for record in _executed(execute, todo, Work(run.store, plan.name, settings)):
        done[record["unit"]] = record
        tally.add(record)
        check()
        if progress:
            progress(tally)
    return [done[u.id] for u in plan.units]


def _executed(execute: Executor | None, todo: Sequence[UnitRef], work: Work) -> Iterator[Record]:
    if not todo:
        return
    if execute is None:
        from raypipe.prepare.on_ray import on_ray

        execute = on_ray
    yield from execute(todo, work)
