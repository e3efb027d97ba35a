"""One small run of each verb with everything that has a metric: the body of a job that tests watch.

python -m tests.support.monitored FOLDER JUDGE_URL
"""

from __future__ import annotations

import sys
from pathlib import Path

from raypipe.cluster import connected
from raypipe.demo import config, run
from raypipe.demo.draw import DrawSettings, draw
from raypipe.evaluate.run import evaluate
from raypipe.prepare.run import prepare
from raypipe.settings import JudgeSettings, Price, StageSettings, Validation
from raypipe.train.run import train
from tests.support.judge_endpoint import JudgeEndpoint, Refuse, Say

SIZE = config.Size(
    draw=DrawSettings(train_clips=24, train_images=24, heldout_clips=24, heldout_images=8),
    steps=(("finetune", 90),),
    checkpoints=3,
)
DATASET = "finetune"  # of the demo
PREPARED, TRAINED, EVALUATED = (f"watched-{verb}" for verb in ("prepare", "train", "evaluate"))

NO_VERDICT = Say("no verdict")


def main(folder: Path, judge_url: str) -> None:
    draw(folder / "data", SIZE.draw)
    broken = min((folder / "data/DATA_ROOT/llava_image_tune").glob("*.png"))
    broken.write_bytes(b"no picture")
    data = config.dataset(folder, DATASET).model_copy(
        update={"out": str(folder / PREPARED), "media_per_shard": 1, "concurrency": 1, "error_budget": 1.0}
    )
    with connected(quiet=True):
        prepare(data)
        run._make_untrained(folder)
        train(_stage(folder))
        settings = config.evaluations(folder, judge_url)["untrained"]
        judge = JudgeSettings(
            base_url=judge_url,
            model="judge-model",
            concurrency=2,
            price=Price(prompt=1.0, reply=2.0),
            max_usd=5.0,
        )
        mine = {"out": str(folder / EVALUATED), "judge": judge, "media_per_unit": 1, "coverage_floor": 0.0}
        evaluate(settings.model_copy(update=mine))


def _stage(folder: Path) -> StageSettings:
    stage = config.stage(folder, DATASET, SIZE)
    mixture = [part.model_copy(update={"data": str(folder / PREPARED)}) for part in stage.mixture]
    return stage.model_copy(
        update={
            "out": str(folder / TRAINED),
            "mixture": mixture,
            "start": stage.start.model_copy(update={"model": str(config.untrained(folder))}),
            "workers": stage.workers.model_copy(update={"num": 1}),
            "global_batch": 8,
            "micro_batch": 8,
            "validation": Validation(fraction=0.2, cpus=1),
        }
    )


def judge_that_hesitates() -> JudgeEndpoint:
    """It refuses one call, breaks on one, never says a verdict on one answer; else it answers, in some time.

    Two calls are under way at once, so which answer it is must not hang on the order in which calls come.
    """
    mute: list[dict[str, str]] = []

    def answer(message: dict[str, str]) -> Say:
        shown = {name: text for name, text in message.items() if name != "code"}
        mute[:] = mute or [shown]
        return NO_VERDICT if shown == mute[0] else Say(delay_s=0.1)

    script = [Refuse(429, headers={"Retry-After": "0.2"}), Refuse(500)]
    return JudgeEndpoint(script, then=answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
