"""What each verb of the command line does: settings in, one function of the verb, a result out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypipe.cli import Request, show
from raypipe.errors import BudgetError, RequestError
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    JudgeSettings,
    StageSettings,
    TuneSettings,
    build,
    load,
    local,
)
from raypipe.terminal import Step


def demo(request: Request) -> int:
    from raypipe.demo.run import run_demo

    out = local(request.take("out", "runs/demo") or "")
    request.nothing_left("demo", ["out"])
    if request.words:
        raise RequestError(f"demo takes no word '{request.words[0]}'", "raypipe demo --out DIR")
    report = run_demo(out)
    if request.json:
        print(json.dumps(report, sort_keys=True, default=str))
        return 0
    _print_report(report)
    return 0


def prepare(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.prepare.run import prepare as run

    settings = load(DatasetSettings, request.yaml(), request.settings)
    _draw_if_asked(settings)
    with connected(quiet=True, dashboard=_dashboard()), Step(f"prepare {settings.name}") as step:
        try:
            totals = run(settings, progress=step.lines)
        except BudgetError as fault:
            _show_totals(settings, fault.result, request.json)
            raise
    _show_totals(settings, totals, request.json)
    return 0


def plan(request: Request) -> int:
    from raypipe.planning import plan_of

    text, result = plan_of(request.yaml() or "", request.settings)
    show(result, text, request.json)
    return 0


def _show_totals(settings: DatasetSettings, totals: dict[str, Any], as_json: bool) -> None:
    text = (
        f"{totals['ok']} of {totals['inputs']} records ready, {totals['quarantined']} in quarantine; "
        f"{totals['media_ok']} media, {totals['frames']} frames, {totals['bytes'] / 1e6:.1f} MB "
        f"in {local(settings.out)}"
    )
    show({"out": local(settings.out), **totals}, text, as_json)


def train(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.train.run import train as run

    settings = load(StageSettings, request.yaml(), request.settings)
    with connected(quiet=True, dashboard=_dashboard()):
        settings = _prepare_first(settings)
        with Step(f"train {settings.name}") as step:
            result = run(settings, progress=step.training, tell=step.event)
    losses = f"loss {result['first_loss']:.4f} -> {result['last_loss']:.4f}"
    text = f"{result['steps']} steps, {losses}, model in {result['model']}"
    show(result, text, request.json)
    return 0


def tune(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.settings.tune import stage_of
    from raypipe.train.tune import PLOT, render
    from raypipe.train.tune import tune as run

    settings = load(TuneSettings, request.yaml(), request.settings)
    stage = stage_of(settings)
    with connected(quiet=True, dashboard=_dashboard()):
        settings = settings.model_copy(update={"stage": _prepare_first(stage), "set": {}})
        with Step(f"tune {settings.name}") as step:
            result = run(settings, progress=step.note)
    show(result, f"{render(result)}\n{local(settings.out)}/{PLOT}", request.json)
    return 0


def evaluate(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.evaluate.run import evaluate as run

    settings = load(EvaluateSettings, request.yaml(required=False), request.settings)
    with connected(quiet=True, dashboard=_dashboard()), Step("evaluate") as step:
        try:
            result = run(settings, progress=step.lines)
        except BudgetError as fault:
            _show_scores(fault.result, settings.out, request.json)
            raise
    _show_scores(result, settings.out, request.json)
    return 0


def judge(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.evaluate.drift import drift_of, render
    from raypipe.evaluate.run import judge_again
    from raypipe.store.run import Run

    root = _one_word(request, "RUN")
    floor, sample = request.take("coverage_floor"), request.take("drift")
    used = Run.open(root, "evaluate").settings["settings"].get("judge") or {}
    wanted = load(JudgeSettings, None, [s.removeprefix("judge.") for s in request.settings]).model_dump(
        exclude_unset=True
    )
    settings = build(JudgeSettings, {**used, **wanted}, "command line")
    with connected(quiet=True, dashboard=_dashboard()), Step("judge") as step:
        if sample is not None:
            found = drift_of(root, settings, _whole_number("drift", sample), step.count("verdicts"))
            show(found.row(), render(found), request.json)
            return 0
        try:
            result = judge_again(
                root, settings, coverage_floor=_share(floor), progress=step.count("verdicts")
            )
        except BudgetError as fault:
            _show_scores(fault.result, root, request.json)
            raise
    _show_scores(result, root, request.json)
    return 0


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
        _print_report(result)
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
        raise RequestError("score takes --answers FILE or --verdicts FILE [FILE...]")
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


def ask(request: Request) -> int:
    from raypipe.evaluate.ask import ask as run

    model, base = request.need("model"), request.take("model_base")
    limit = _whole_number("max_new_tokens", request.take("max_new_tokens", "128"))
    request.nothing_left("ask", ["model", "model_base", "max_new_tokens"])
    if len(request.words) != 2:
        raise RequestError(
            "ask takes a file and a question", 'raypipe ask --model M clip.mp4 "What happens?"'
        )
    answer = run(model, base, request.words[0], request.words[1], limit)
    show({"answer": answer, "file": request.words[0], "question": request.words[1]}, answer, request.json)
    return 0


def verify(request: Request) -> int:
    from raypipe.store.verify import raise_on_damage
    from raypipe.store.verify import verify as run

    root = _one_word(request, "RUN")
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


def doctor(request: Request) -> int:
    from raypipe.doctor.run import doctor as run

    options = ["data_root", "datasets", "out", "eval_root"]
    root, datasets, out, eval_root = (request.take(name) for name in options)
    request.nothing_left("doctor", options)
    if request.words:
        raise RequestError(f"doctor takes no word '{request.words[0]}'", "raypipe doctor [--data-root DIR]")
    if datasets and not root:
        raise RequestError("--datasets is of use with --data-root only", "name the tree: --data-root DIR")
    code, result, text = run(root, datasets, out, eval_root)
    show(result, text, request.json)
    return code


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
    return 3 if result["refused"] else 0


def benchmarks(request: Request) -> int:
    from raypipe.report.listing import benchmark_rows, benchmarks_text

    request.nothing_left("benchmarks", [])
    rows = benchmark_rows()
    show({"benchmarks": rows}, benchmarks_text(rows), request.json)
    return 0


def merge(request: Request) -> int:
    from raypipe.model.lora import merge as run

    adapter, layout = request.need("adapter"), request.take("layout", "hf") or "hf"
    base = request.need("model_base") if layout == "hf" else request.take("model_base")
    out = request.need("out")
    request.nothing_left("merge", ["adapter", "model_base", "out", "layout"])
    folder = run(adapter, base, local(out), layout)
    show({"model": str(folder)}, f"merged model in {folder}", request.json)
    return 0


def _prepare_first(settings: StageSettings) -> StageSettings:
    """A dataset yaml in the mixture is prepared (or found prepared) before the stage."""
    from raypipe.prepare.run import prepare as run

    parts = []
    for part in settings.mixture:
        if part.data.endswith((".yaml", ".yml")):
            dataset = load(DatasetSettings, part.data)
            _draw_if_asked(dataset)
            with Step(f"prepare {dataset.name}") as step:
                run(dataset, progress=step.lines)
            part = part.model_copy(update={"data": dataset.out})
        parts.append(part)
    return settings.model_copy(update={"mixture": parts})


def _draw_if_asked(settings: DatasetSettings) -> None:
    if settings.drawn is not None:
        from raypipe.demo.data import draw_data_root

        draw_data_root(Path(local(settings.data_root)), settings.drawn)


def _show_scores(result: dict[str, Any], out: str, as_json: bool) -> None:
    from raypipe.report.listing import evaluation_text

    show({"out": local(out), **result}, evaluation_text(result, out), as_json)


def _share(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise RequestError(f"'{text}' is not a share between 0 and 1") from None


def _print_report(report: dict[str, Any]) -> None:
    from raypipe.report.table import render

    print(render(report))


def _whole_number(name: str, text: str | None) -> int:
    if text is None or not text.isdecimal() or int(text) < 1:
        raise RequestError(f"{name}={text} is not a whole number of at least 1")
    return int(text)


def _one_word(request: Request, what: str) -> str:
    if len(request.words) != 1:
        raise RequestError(f"give exactly one {what}")
    return request.words[0]


def _dashboard() -> bool:
    """The dashboard of a local cluster can be turned off; starting it costs some seconds and memory."""
    import os

    return os.environ.get("RAYPIPE_DASHBOARD", "1") != "0"
