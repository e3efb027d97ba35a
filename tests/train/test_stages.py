"""Real stages on a shared local Ray: they survive a kill, continue bit for bit, and equal plain AdamW."""

import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from raypipe.model.build import load_model
from raypipe.model.splice import LossHead
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.verify import verify
from raypipe.train.checkpoints import records
from raypipe.train.examples import Examples
from raypipe.train.ledger import check
from raypipe.train.meter import TIMED
from raypipe.train.mixture import Mixture
from raypipe.train.order import order_of, rate_factor
from raypipe.train.plan import plan_stage
from raypipe.train.run import train
from raypipe.train.work import Worker, work_of
from tests.support.kills import SEED
from tests.support.prepared import steady_run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_local")]
STEPS = 10
FINETUNE = {
    "rates": {"language_model": 1e-3, "multi_modal_projector": 2e-3},
    "optimizer": {"weight_decay": 0.05},
    "steps": STEPS,
}


def stage(folder: Path, name: str, start: dict, **more) -> StageSettings:
    values = {
        "name": name,
        "out": str(folder / name),
        "start": start,
        "mixture": [{"data": str(folder / "run")}],
        "global_batch": 3,  # two ranks, so that one of them is filled up in every step
        "micro_batch": 1,
        "precision": "fp32",
        "schedule": {"warmup_ratio": 0.2},
        "workers": {"num": 1, "cpus": 0.5},
        "checkpoint": {"every_steps": 1, "keep": 50},
    }
    return StageSettings.model_validate({**values, **more})


def finetune(folder: Path, name: str, out: str | None = None) -> StageSettings:
    two = {"global_batch": 4, "workers": {"num": 2, "cpus": 0.5}}
    made = stage(folder, name, {"model": str(folder / "pretrain")}, **two, **FINETUNE)
    return made if out is None else made.model_copy(update={"out": out})


def metrics(out: str) -> list[dict]:
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


def weights(out: str) -> bytes:
    return (Path(out) / "model/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    steady_run(folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(folder, ray_local) -> dict:
    rates = {"multi_modal_projector": 1e-3}
    return train(stage(folder, "pretrain", {"random": "tiny", "seed": 4}, rates=rates, steps=4))


@pytest.fixture(scope="module")
def finetuned(folder, pretrained) -> str:
    """The undisturbed run the others are compared with; its folder."""
    settings = finetune(folder, "finetune")
    told = []
    result = train(settings, progress=told.append)
    assert told[-1]["step"] == STEPS
    assert result["last_loss"] < result["first_loss"]
    return settings.out


def test_pretraining_moves_the_projector_alone(folder, pretrained):
    assert (pretrained["steps"], pretrained["inputs"]) == (4, 8)
    assert verify(str(folder / "pretrain")).damage == []
    trained = load_model(str(folder / "pretrain"))
    from raypipe.train.start import build_model

    settings = stage(folder, "unused", {"random": "tiny", "seed": 4})
    start = dict(build_model(settings, Mixture([str(folder / "run")])).model.named_parameters())
    moved = {n for n, p in trained.model.named_parameters() if not torch.equal(p, start[n])}
    assert len(moved) == 4
    assert all("multi_modal_projector" in n for n in moved)


def test_a_finished_stage_is_left_alone(folder, finetuned):
    before = (Path(finetuned) / "commit.json").stat().st_mtime_ns
    told: list[dict] = []
    assert train(finetune(folder, "finetune"), progress=told.append)["steps"] == STEPS
    assert told == []
    assert (Path(finetuned) / "commit.json").stat().st_mtime_ns == before


def test_zero_2_on_two_workers_equals_plain_adamw(folder, finetuned):
    settings = finetune(folder, "finetune")
    plan = plan_stage(settings)
    mixture, loaded = Mixture(plan.data), load_model(str(folder / "pretrain"))
    model = loaded.model.train()
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = settings.rates.get(loaded.family.part_of(name), 0.0)
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault((rate, 0.05 if parameter.ndim > 1 else 0.0), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()]
    )
    examples = Examples(mixture, loaded, settings)
    order, head = order_of(mixture, plan, settings), LossHead(model, loaded.family)
    losses, alone = [], Worker(0, 1, torch.device("cpu"))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(step, STEPS, 0.2, "cosine")
        batches = work_of(examples, order.batch(step), alone, 1, torch.float32).batches
        learned = sum(b.learned for b in batches)
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = head(batch)[0] / learned
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_([p for ps in groups.values() for p in ps], 1.0)
        optimizer.step()
        losses.append(total)
    theirs = [row["loss"] for row in metrics(finetuned)]
    assert theirs == pytest.approx(losses, abs=2e-6)
    assert theirs[0] - theirs[-1] > 0.01  # something was learned
    trained = dict(load_model(finetuned).model.named_parameters())
    apart = max(float((p - trained[n]).detach().abs().max()) for n, p in model.named_parameters())
    assert apart < 2e-5


@pytest.mark.parametrize("when", ["between", "writing"])
def test_a_killed_worker_changes_nothing(folder, finetuned, when):
    step = random.Random(f"{SEED}-{when}").randint(2, STEPS - 2)
    settings = finetune(folder, "finetune", out=str(folder / f"killed-{when}"))
    killed: list[int] = []
    args = (Path(settings.out), step, when == "writing", killed)
    watcher = threading.Thread(target=_kill_at_step, args=args, daemon=True)
    watcher.start()
    result = train(settings)
    watcher.join(5)
    assert len(killed) == 1
    assert not psutil.pid_exists(killed[0]) or psutil.Process(killed[0]).status() == psutil.STATUS_ZOMBIE
    runs = [p for p in (Path(settings.out) / "ray").iterdir() if p.is_dir()]
    assert len(runs) == 1  # Ray Train itself started the workers again
    assert metrics(settings.out) == metrics(finetuned)
    assert result["last_loss"] == metrics(finetuned)[-1]["loss"]
    assert weights(settings.out) == weights(finetuned)
    assert verify(settings.out).damage == []
    assert check(Run.open(settings.out)) == {"epochs": STEPS // 2, "rows": 8 * STEPS // 2}


def _kill_at_step(out: Path, step: int, writing: bool, killed: list[int]) -> None:
    record = out / f"checkpoints/step-{step:08d}.json"
    begun = f"checkpoints/step-{step:08d}-*"
    while not (any(out.glob(begun)) if writing else record.exists()):
        time.sleep(0.002)
    if (out / "commit.json").exists() or (out / "model").exists():
        return  # too late: the test then says that nothing was killed
    mine = psutil.Process().children(recursive=True)  # not those of another session on this machine
    workers = [p for p in mine if _is_worker(_words(p))]
    os.kill(workers[0].pid, signal.SIGKILL)
    killed.append(workers[0].pid)


def _words(process: psutil.Process) -> list[str]:
    """Its command line; none of one that is over, such as a zombie that another test has left."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _is_worker(words: list[str] | None) -> bool:
    return bool(words) and words[0].startswith("ray::") and "RayTrainWorker" in words[0]


def test_a_new_driver_continues_bit_for_bit(folder, finetuned):
    """The folder as a killed driver leaves it: checkpoints up to step 6 (torn), metrics beyond."""
    out = folder / "continued"
    shutil.copytree(finetuned, out)
    shutil.rmtree(out / "model")
    for name in ("commit.json", "manifest.json", "quarantine.jsonl"):
        (out / name).unlink()
    for step in range(7, STEPS + 1):
        (out / f"checkpoints/step-{step:08d}.json").unlink()
    torn = next(out.glob("checkpoints/step-00000006-*/rank-00001.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-100])
    started = len(list((out / "ray").iterdir()))
    train(finetune(folder, "finetune", out=str(out)))
    assert len(list((out / "ray").iterdir())) > started  # it did run
    assert metrics(str(out)) == metrics(finetuned)
    assert weights(str(out)) == weights(finetuned)


def test_lora_exports_an_adapter_with_what_else_learned(folder, finetuned):
    settings = stage(
        folder,
        "lora",
        {"model": finetuned},
        lora={"r": 4, "alpha": 8, "rate": 1e-2},
        rates={"multi_modal_projector": 1e-3},
        steps=4,
        group_by_length=True,
    )
    result = train(settings)
    assert result["steps"] == 4
    assert verify(settings.out).damage == []
    names = {p.name for p in (folder / "lora/model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "raypipe.json"} <= names
    assert "model.safetensors" not in names
    base = dict(load_model(finetuned).model.named_parameters())
    tuned = load_model(settings.out, finetuned)
    moved = {n for n, p in tuned.model.named_parameters() if "modules_to_save" in n and p.any()}
    assert moved
    merged = tuned.model.merge_and_unload()
    apart = {n: float((p - base[n]).detach().abs().max()) for n, p in merged.named_parameters()}
    changed = {n for n, a in apart.items() if a > 1e-7}
    assert any("self_attn.q_proj" in n for n in changed)
    assert any("multi_modal_projector" in n for n in changed)
    assert not any("embed_tokens" in n or "tower" in n for n in changed)


def test_another_number_of_workers_continues(folder, finetuned):
    out = folder / "fewer"
    shutil.copytree(finetuned, out)
    (out / "commit.json").unlink()
    shutil.rmtree(out / "model")
    for step in range(6, STEPS + 1):
        (out / f"checkpoints/step-{step:08d}.json").unlink()
    settings = finetune(folder, "finetune", out=str(out))
    one = settings.workers.model_copy(update={"num": 1})
    result = train(settings.model_copy(update={"workers": one}))
    losses = [row["loss"] for row in metrics(finetuned)]
    assert [row["loss"] for row in metrics(str(out))] == pytest.approx(losses, abs=2e-6)
    assert [r["world"] for r in records(Store(str(out)))] == [2] * 5 + [1] * 5
    assert result["last_loss"] == metrics(str(out))[-1]["loss"]
    assert verify(str(out)).damage == []
