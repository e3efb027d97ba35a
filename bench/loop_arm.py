"""One arm of a comparison of whole training loops, in a process of its own.

    python -m bench.loop_arm ray|torchrun|alone|transformers SETTINGS.json

Prints the mean seconds of a step after the first ones. ``torchrun`` is the same loop without Ray, under
torch's own launcher (which starts this file again with ``rank``), ``alone`` the same without a launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from raypipe.settings import StageSettings

WARM = 20


def main() -> None:
    how, file = sys.argv[1:3]
    settings = StageSettings.model_validate_json(Path(file).read_text())
    if how == "transformers":
        print(json.dumps({"step_s": _with_transformers(settings)}))
        return
    if how == "ray":
        _on_ray(settings)
    elif how == "alone":
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        _on_rank(settings)
    elif how == "torchrun":
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        arm = [str(settings.workers.num), "-m", "bench.loop_arm", "rank", file]
        subprocess.run([*launcher, *arm], check=True, stdout=subprocess.DEVNULL)
    else:
        _on_rank(settings)
        return
    print(json.dumps({"step_s": step_seconds(settings)}))


def step_seconds(settings: StageSettings) -> float:
    """Mean seconds of a step of a finished run, its waiting for data included."""
    from raypipe.store.files import Store
    from raypipe.store.journal import rows as rows_of

    rows = [row for row in rows_of(Store(settings.out), "metrics") if row is not None]
    rows = rows[min(WARM, len(rows) // 2) :]
    return sum(row["step_s"] for row in rows) / len(rows)


def _with_transformers(settings: StageSettings) -> float:
    import torch

    from bench.hf_trainer import step_seconds as of_trainer
    from raypipe.train.examples import Examples
    from raypipe.train.mixture import Mixture
    from raypipe.train.start import build_model

    torch.set_num_threads(settings.workers.threads)
    mixture = Mixture([part.data for part in settings.mixture])
    loaded = build_model(settings, mixture)
    return of_trainer(loaded, Examples(mixture, loaded, settings), settings, int(settings.steps or 0))


def _on_ray(settings: StageSettings) -> None:
    from raypipe.cluster import connected
    from raypipe.train.run import train

    with connected(quiet=True, dashboard=False):
        train(settings)


def _on_rank(settings: StageSettings) -> None:
    from raypipe.train.engine import prepare_environment

    prepare_environment(0)
    import torch

    from raypipe.store.run import Run
    from raypipe.train.loop import run_alone
    from raypipe.train.plan import plan_stage

    torch.set_num_threads(settings.workers.threads)
    torch.distributed.init_process_group("gloo")
    if int(os.environ["RANK"]) == 0:
        Run.start(settings.out, "train", settings)
    torch.distributed.barrier()
    run_alone(plan_stage(settings), settings)


if __name__ == "__main__":
    main()
