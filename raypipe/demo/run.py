"""The demo: the whole platform on clips it draws itself; started again, it goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypipe.cluster import connected
from raypipe.demo import config
from raypipe.demo.checks import checks_of
from raypipe.demo.draw import draw
from raypipe.demo.matching_judge import MatchingJudge
from raypipe.errors import RaypipeError
from raypipe.report.run import report_runs
from raypipe.terminal import Step

STAGES = ("pretrain", "finetune", "lora")
NOTES = (
    "The data is drawn and the model tiny, from random weights: nothing here speaks of the published model.",
    f"Open answers are judged by a {config.JUDGE_NAME}: it compares words.",
    "'one frame' is the trained model shown one frame of each clip eight times: a control.",
)


def run_demo(out: str, size: config.Size = config.FULL) -> dict[str, Any]:
    """Runs every verb into one folder.

    Args:
        out: the folder; what is committed there is not done again.
        size: only the full size is long enough to be checked for what the models learned.

    Returns:
        what report.json holds.

    Raises:
        RaypipeError: the report is written, but a check in it failed.
    """
    root = Path(out)
    with Step("1/6 draw clips and images", every_s=5) as step:
        draw(root / "data", size.draw, progress=step.count("media"))
    with connected(quiet=True, dashboard=False):
        _prepare(root)
        _train(root, size)
        summaries = _evaluate(root)
    with Step("6/6 report"):
        report = report_runs(
            [(label, settings.out) for label, settings in config.evaluations(root, "").items()],
            trainings=[(name, config.stage(root, name, size).out) for name in STAGES],
            prepares=[(name, config.dataset(root, name).out) for name in STAGES],
            baseline="untrained",
            out=str(root / "report"),
            title="raypipe demo",
            notes=NOTES,
            checks=checks_of(summaries) if size == config.FULL else (),
            published=False,
        )
    failed = [c["name"] for c in report["checks"] if not c["passed"]]
    if failed:
        raise RaypipeError(f"checks failed: {'; '.join(failed)}", f"look at {report['paths']['html']}")
    return report


def _prepare(root: Path) -> None:
    from raypipe.prepare.run import prepare

    for name in STAGES:
        with Step(f"2/6 prepare {name}", every_s=5) as step:
            totals = prepare(config.dataset(root, name), progress=step.lines)
            step.note(f"{totals['ok']} samples, {totals['media_ok']} media, {totals['frames']} frames")


def _train(root: Path, size: config.Size) -> None:
    from raypipe.train.run import train

    _make_untrained(root)
    for name in STAGES:
        with Step(f"3/6 train {name}", every_s=5) as step:
            train(config.stage(root, name, size), progress=step.training, tell=step.event)


def _evaluate(root: Path) -> dict[str, dict[str, Any]]:
    from raypipe.evaluate.run import evaluate

    summaries = {}
    with MatchingJudge() as judge:
        for label, settings in config.evaluations(root, judge.base_url).items():
            with Step(f"4/6 evaluate, 5/6 judge: {label}", every_s=5) as step:
                summaries[label] = evaluate(settings, progress=step.lines)
    return summaries


def _make_untrained(root: Path) -> None:
    """A random model with a tokenizer trained on the demo's own texts."""
    folder = config.untrained(root)
    if (folder / "raypipe.json").exists():  # the last file of an export
        return
    from raypipe.model.build import Card, random_model, save_model
    from raypipe.text.chat import TEMPLATES
    from raypipe.text.tokenizer import train_tokenizer

    texts = [f" {t.system} USER: ASSISTANT:" for t in TEMPLATES.values()] * 8
    for files in config.ANNOTATIONS.values():
        for file in files:
            records = json.loads((root / "data" / "DATA_ROOT" / file).read_text(encoding="utf-8"))
            texts += [f" {turn['value']}" for record in records for turn in record["conversations"]]
    data = config.dataset(root, "finetune")
    card = Card(sampling=data.sampling, rendition=data.rendition)
    save_model(random_model("tiny", train_tokenizer(texts), config.SEED, "video_llava"), card, folder)
