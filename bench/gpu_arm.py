"""One arm of bench.gpu: ``python -m bench.gpu_arm ours|trainer|exact SETTINGS.json``; prints a JSON line."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from raypipe.model.build import Card, LoadedModel
from raypipe.model.families import family_named
from raypipe.settings import StageSettings
from raypipe.text.templates import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer
from raypipe.train.mixture import Mixture

VOCABULARY, WARM = 32000, 4
GIB = 1 << 30


def main() -> None:
    how, file = sys.argv[1:3]
    settings = StageSettings.model_validate_json(Path(file).read_text())
    torch.set_num_threads(8)
    print(json.dumps({"ours": ours, "trainer": trainer, "exact": exact}[how](settings)))


def built(settings: StageSettings, mixture: Mixture) -> LoadedModel:
    """The stage's model, its random weights drawn on the GPU: a CPU takes minutes for 7 billion."""
    family = family_named(settings.start.family)
    texts = [t for number in range(min(len(mixture), 64)) for t in mixture.texts(number)]
    tokenizer = train_tokenizer([TEMPLATES["v1"].system, *texts])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            torch.manual_seed(0)
            model = family.cls(family.random("7b", VOCABULARY))
    finally:
        torch.set_default_dtype(before)
    loaded = LoadedModel(model.train(), family, tokenizer, Card())
    if settings.lora:
        from raypipe.model.lora import add_lora

        loaded = add_lora(loaded, settings.lora, list(settings.rates), "random")
    return loaded


def ours(settings: StageSettings) -> dict[str, Any]:
    """raypipe's own loop, on this process's rank: everything but Ray."""
    from raypipe.store.files import Store
    from raypipe.store.run import Run
    from raypipe.train import loop
    from raypipe.train.checkpoints import Checkpoints
    from raypipe.train.engine import prepare_environment
    from raypipe.train.plan import plan_stage
    from raypipe.train.status import Status
    from raypipe.train.work import Worker

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    prepare_environment(settings.workers.gpus)
    torch.distributed.init_process_group("nccl", device_id=torch.device("cuda", 0))
    stalls: list[float] = []
    plain = loop._Loop._checkpoint

    def clocked(self: Any, done: int) -> None:
        began = time.perf_counter()
        plain(self, done)
        stalls.append(round(time.perf_counter() - began, 3))

    loop._Loop._checkpoint, loop.build_model = clocked, built  # type: ignore[method-assign]
    Run.start(settings.out, "train", settings)
    store = Store(settings.out)
    kept = Checkpoints(store, 0, 1, 1, lambda value: [value], asynchronous=True)
    loop.train_on_rank(plan_stage(settings), settings, Worker(0, 1, torch.device("cuda", 0)), kept, Status())
    return {**_of_rows(store), **_memory(), "checkpoint_stalls_s": stalls, "checkpoint_gib": _size(settings)}


def _of_rows(store: Any) -> dict[str, Any]:
    from raypipe.store.journal import rows as rows_of

    rows = [row for row in rows_of(store, "metrics") if row is not None]
    seen = rows[min(WARM, len(rows) // 2) :]
    seconds = sum(row["step_s"] for row in seen)
    tokens = sum(row["tokens"] for row in seen)
    return {
        "steps": len(seen),
        "step_s": round(seconds / len(seen), 4),
        "tokens_s": round(tokens / seconds, 1),
        "samples_s": round(sum(row["samples"] for row in seen) / seconds, 3),
        "tokens_a_sample": round(tokens / sum(row["samples"] for row in seen), 1),
        "mfu": round(statistics.fmean(row["mfu"] for row in seen), 4),
        "mfu_convention": rows[-1].get("mfu_convention"),
        "data_wait": round(sum(row["data_wait_s"] for row in seen) / seconds, 5),
        "loss_first_last": [rows[0]["loss"], rows[-1]["loss"]],
    }


def _memory() -> dict[str, Any]:
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
    }


def _size(settings: StageSettings) -> float:
    files = (Path(settings.out) / "checkpoints").rglob("*.safetensors")
    return round(sum(file.stat().st_size for file in files) / GIB, 3)


def trainer(settings: StageSettings) -> dict[str, Any]:
    """transformers' Trainer with PEFT, padded batches and full logits: as many samples a step."""
    from bench.hf_trainer import step_seconds
    from raypipe.train.examples import Examples

    mixture = Mixture([part.data for part in settings.mixture])
    loaded = built(settings, mixture)
    examples = Examples(mixture, loaded, settings, threads=1)
    each = step_seconds(loaded, examples, settings, int(settings.steps or 0), gpu=True)
    counted = examples.tokens(range(len(mixture)))
    tokens = settings.global_batch * statistics.fmean(counted)
    said = {"step_s": round(each, 4), "tokens_s": round(tokens / each, 1)}
    return {**said, "samples_s": round(settings.global_batch / each, 3), **_memory()}


def exact(settings: StageSettings) -> dict[str, Any]:
    """One batch: the loss of raypipe's head against transformers' own forward over all logits, twice.

    In bf16, and with the same weights in fp32, where what is left is how the sums are ordered.
    """
    from bench.hf_trainer import collated
    from raypipe.model.splice import LossHead
    from raypipe.train.collate import collate
    from raypipe.train.examples import Examples

    mixture = Mixture([part.data for part in settings.mixture])
    loaded = built(settings, mixture)
    examples = Examples(mixture, loaded, settings)
    found: dict[str, Any] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        model = loaded.model.to("cuda", dtype).eval()
        rows = examples.many([0, 1])
        batch = collate([(row,) for row in rows], dtype, "cuda", look=examples.look)
        with torch.no_grad():
            shown = {k: v.to("cuda") for k, v in collated(rows).items()}
            theirs = float(model(**shown).loss)
            total, _ = LossHead(model, loaded.family)(batch)
        mine = float(total) / batch.learned
        found[name] = {"ours": mine, "transformers": theirs, "relative": abs(mine - theirs) / theirs}
    found["bf16_against_fp32"] = abs(found["bf16"]["ours"] - found["fp32"]["ours"]) / found["fp32"]["ours"]
    return {**found, **_memory()}


if __name__ == "__main__":
    main()
