"""The verbs about what is there already: runs, answers, stored verdicts, benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypipe.cli import Request, show
from raypipe.commands.arguments import one_word, print_report
from raypipe.errors import BudgetError, RequestError
from raypipe.settings import local


def report(request: Request) -> int:
    from raypipe.report.run import report_runs
    from raypipe.store.run import Run

    out = local(request.take("out", "report") or "")
    baseline = request.take("baseline")
    named: dict[str, list[tuple[str, str]]] = {"evaluate": [], "train": [], "prepare": []}
    labelled = [w.rpartition("=")[0::2] for w in [*request.words, *request.settings]]
    if not labelled:
        raise RequestError(
            "report of which runs?", "raypipe report RUN... [--out DIR]; LABEL=RUN names a run"
        )
    for label, path in labelled:
        run = Run.open(path)
        named.setdefault(run.kind, []).append((label or Path(run.store.root).name, run.store.root))
    result = report_runs(
        named["evaluate"], trainings=named["train"], prepares=named["prepare"], baseline=baseline, out=out
    )
    if request.json:
        print(json.dumps(result, sort_keys=True, default=str))
    else:
        print_report(result)
    return 0


def compare(request: Request) -> int:
    from raypipe.report.compare import compare as run
    from raypipe.report.table import render_comparison

    if len(request.words) != 2:
        raise RequestError("compare takes two evaluation runs", "raypipe compare RUN_A RUN_B")
    request.nothing_left("compare", [])
    result = run(*[local(w) for w in request.words])
    show(result, render_comparison(result), request.json)
    return 0


def score(request: Request) -> int:
    from raypipe.benchmark import load as load_benchmark
    from raypipe.eval_mirror import eval_tree
    from raypipe.report.listing import score_text
    from raypipe.report.score import score_answers, score_verdicts

    options = ["eval_root", "answers", "verdicts", "split"]
    root = request.need("eval_root")
    verdicts = [s.partition("=")[2] for s in request.settings if s.startswith("verdicts=")]
    _, answers, split = (request.take(name) for name in ("verdicts", "answers", "split"))
    request.nothing_left("score", options)
    name, *more = request.words or [""]
    if not name:
        raise RequestError("score which benchmark?", "raypipe benchmarks lists them")
    if (answers is None) == (not verdicts) or (more and not verdicts):
        raise RequestError("score takes --answers FILE or --verdicts FILE [FILE...]", "give one of the two")
    with eval_tree(root, [load_benchmark(name, split).folder]) as tree:
        if answers is not None:
            result = score_answers(name, tree, local(answers), split)
        else:
            result = score_verdicts(name, tree, [local(f) for f in (*verdicts, *more)], split)
    show(result, score_text(result), request.json)
    return 0


def export(request: Request) -> int:
    from raypipe.benchmark import load as load_benchmark
    from raypipe.eval_mirror import eval_tree
    from raypipe.report.export import export as run
    from raypipe.report.listing import export_text

    options = ["eval_root", "out", "answers", "run", "split", "format"]
    if len(request.words) != 1:
        raise RequestError("export which benchmark? give one name", "raypipe benchmarks lists them")
    root, out = request.need("eval_root"), local(request.need("out"))
    answers, of_run, split = (request.take(name) for name in options[2:5])
    form = request.take("format", "upload") or ""
    request.nothing_left("export", options)
    with eval_tree(root, [load_benchmark(request.words[0], split).folder]) as tree:
        result = run(
            request.words[0],
            tree,
            out,
            answers=local(answers) if answers else None,
            run=local(of_run) if of_run else None,
            split=split,
            form=form,
        )
    show(result, export_text(result), request.json)
    return 0


def verify(request: Request) -> int:
    from raypipe.store.verify import raise_on_damage
    from raypipe.store.verify import verify as run

    root = one_word(request, "RUN")
    request.nothing_left("verify", [])
    proof = run(local(root))
    if request.json:
        print(json.dumps(proof.row(), sort_keys=True))
    raise_on_damage(proof)
    if not request.json:
        print(
            f"proved: {proof.files} files, {proof.rows} rows, {proof.inputs} inputs each in exactly one place"
        )
        if proof.unproved:
            print(f"scores not proved: {proof.unproved}; the same command, run again, makes it so")
    return 0


def unpack(request: Request) -> int:
    from raypipe import benchmark as benchmarks
    from raypipe.eval_mirror import eval_tree
    from raypipe.report.listing import unpacked_text

    if len(request.words) != 1:
        raise RequestError("unpack which benchmark? give one name", "raypipe benchmarks lists them")
    root, split = request.need("eval_root"), request.take("split")
    chosen = benchmarks.load(request.words[0], split)
    given = {name: request.take(name) for name in chosen.media_sources}
    request.nothing_left("unpack", ["eval_root", "split", *chosen.media_sources])
    folders = {name: Path(local(folder)) for name, folder in given.items() if folder}
    result: dict[str, Any] = {"benchmark": chosen.name, "refused": {}}
    if chosen.extract is not None:
        if not folders:
            wanted = " ".join(f"{name}=DIR" for name in chosen.media_sources)
            raise RequestError(f"{chosen.name} is unpacked from videos, and none are named", f"give {wanted}")
        with eval_tree(root, [chosen.folder], publish=True) as tree:
            made = chosen.extract(tree, folders)
        refused = {name: rejection.row() for name, rejection in made.refused.items()}
        result |= {"written": made.written, "present": made.present, "refused": refused}
    elif chosen.unpack is not None:
        with eval_tree(root, [chosen.folder], publish=True) as tree:
            result["written"] = chosen.unpack(tree)
    else:
        raise RequestError(f"the media of {chosen.name} are files already", chosen.source)
    show(result, unpacked_text(result), request.json)
    if refused := result["refused"]:
        raise BudgetError(
            f"{len(refused)} files could not be made; the others are there",
            "complete the folders that are named, then run the same command again",
        )
    return 0


def benchmarks(request: Request) -> int:
    from raypipe.report.listing import benchmark_rows, benchmarks_text

    request.nothing_left("benchmarks", [])
    rows = benchmark_rows()
    show({"benchmarks": rows}, benchmarks_text(rows), request.json)
    return 0
