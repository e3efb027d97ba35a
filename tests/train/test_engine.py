"""DeepSpeed against plain torch, and stopped runs against undisturbed ones, on one to three processes."""

from __future__ import annotations

import contextlib
import random
import shutil
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch

from raypipe.errors import RaypipeError
from raypipe.model.build import load_model
from raypipe.model.splice import LossHead
from raypipe.records import MediumKind
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.store.verify_train import ledger_facts
from raypipe.train.checkpoints import records
from raypipe.train.examples import Examples
from raypipe.train.export import export_run
from raypipe.train.mixture import Mixture
from raypipe.train.order import order_of, rate_factor
from raypipe.train.plan import plan_stage
from raypipe.train.start import build_model
from raypipe.train.work import Worker, work_of
from tests.support.clips import write_annotations
from tests.support.kills import ALL, SEED
from tests.support.prepared import prepared, steady_root
from tests.train.ranks import PARTS, Case, Stopping, apart, group, metrics, once, run, same, stage, state

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
ZEROS = (1, 2, 3)
LONG, SHORT = 20, 3
EXACT = 2e-6  # of a loss of about seven, after twenty steps
RANDOM = {"random": "tiny", "seed": 4}
Combination = tuple[str, int, str]  # what learns, ZeRO stage, precision


def combinations() -> list[Combination]:
    """What is stopped at every step: all, or by the seed two of each ZeRO stage and of each kind of part."""
    every = [(parts, zero, precision) for parts in PARTS for zero in ZEROS for precision in ("fp32", "bf16")]
    if ALL:
        return every
    dice = random.Random(SEED)
    kinds = list(PARTS)
    dice.shuffle(kinds)
    some = [(kind, zero, dice.choice(["fp32", "bf16"])) for kind, zero in zip(kinds, ZEROS, strict=True)]
    rest = [c for c in every if c not in some and c[2] == "bf16"]
    some += [dice.choice([c for c in rest if c[1] == zero]) for zero in (2, 3)]
    print(f"combinations (RAYPIPE_FAULT_SEED={SEED}, RAYPIPE_ALL_FAULTS=1 for all {len(every)}): {some}")
    return some


COMBINATIONS = combinations()
OFFLOADED = {"offload_optimizer": True}
SPECIAL = {
    "offload-1": ("full", 1, "bf16", {"deepspeed": {"zero": 1, **OFFLOADED}}),
    "offload-2": ("projector", 2, "bf16", {"deepspeed": {"zero": 2, **OFFLOADED}}),
    "offload-3": ("full", 3, "bf16", {"deepspeed": {"zero": 3, **OFFLOADED, "offload_parameters": True}}),
    "one-micro-batch": ("full", 1, "bf16", {"micro_batch": 2, "gradient_checkpointing": True}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two prepare runs: every kind of sample, and videos alone.

    Their order hangs on the names of media, and how far rounding parts two runs hangs on the order: by 5e-6
    of a loss in some. So it is the same wherever the folder lies and whenever it was made.
    """
    folder = tmp_path_factory.mktemp("engine")
    records = steady_root(folder / "data")
    clips = [r for r in records if "video" in r and "image" not in r]
    write_annotations(folder / "data", clips, "videos.json")
    with contextlib.chdir(folder):
        prepared(Path("data"), folder / "run")
        prepared(Path("data"), folder / "videos", annotations=["videos.json"])
    return folder


def data_of(folder: Path, parts: str, zero: int) -> Path:
    """Half of the runs have every kind of sample, half of them videos alone."""
    return folder / ("videos" if zero == 2 and parts != "full" else "run")


def short(folder: Path, name: str, parts: str, zero: int, precision: str, **more) -> dict:
    data = data_of(folder, parts, zero)
    return stage(folder / name, data, RANDOM, parts, zero, precision=precision, steps=SHORT, **more)


def long(folder: Path, name: str, zero: int, **more) -> dict:
    values = {"steps": LONG, "checkpoint": {"every_steps": LONG, "keep": 9}, **more}
    # Without the temporal layers, whose sums are longer: rounding alone then parts two runs by 2.6e-6.
    start = {**RANDOM, "family": "video_llava_hf"}
    return stage(folder / name, folder / "run", start, "full", zero, **values)


def pair(folder: Path, name: str, parts: str, zero: int, precision: str, **more) -> list[Case]:
    """The same run undisturbed, and stopped before each of its steps but the first."""
    whole = short(folder, f"{name}-whole", parts, zero, precision, **more)
    stopped = short(folder, f"{name}-stopped", parts, zero, precision, **more)
    return [Case(name, whole), Case(name, stopped, (*range(1, SHORT), None))]


def name_of(combination: Combination) -> str:
    return "-".join(str(word) for word in combination)


ELASTIC = {"steps": 6, "global_batch": 3}


def elastic(folder: Path, name: str, zero: int, stop: int | None) -> Case:
    return Case(name, stage(folder / name, folder / "run", RANDOM, "full", zero, **ELASTIC), (stop,))


@pytest.fixture(scope="module")
def runs(folder) -> Path:
    """All runs of this file, in four groups of processes; below the folder, by name."""
    two = [Case(f"long-{z}", long(folder, f"long-{z}-2", z)) for z in ZEROS]
    for combination in COMBINATIONS:
        two += pair(folder, name_of(combination), *combination)
    for name, (parts, zero, precision, more) in SPECIAL.items():
        two += pair(folder, name, parts, zero, precision, **more)
    two += [elastic(folder, f"whole-{z}", z, None) for z in ZEROS]
    two += [elastic(folder, f"moved-{z}", z, 2) for z in ZEROS]
    two += [elastic(folder, "other-stage", 2, 3)]
    two += [Case("lora", short(folder, "lora", "lora", 2, "fp32"))]
    group(2, folder / "group-2", two)
    one = [Case(f"long-{z}", long(folder, f"long-{z}-1", z)) for z in ZEROS]
    one += [elastic(folder, f"moved-{z}", z, 4) for z in ZEROS]
    one += [elastic(folder, "grown", 2, 3)]
    group(1, folder / "group-1", one)
    back = [elastic(folder, f"moved-{z}", z, None) for z in ZEROS]
    group(2, folder / "group-2-again", [*back, elastic(folder, "other-stage", 3, None)])
    group(3, folder / "group-3", [elastic(folder, "grown", 2, None)])
    return folder


@pytest.fixture(scope="module")
def plain(folder) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses and weights of twenty steps of torch's own AdamW, in this process."""
    settings = StageSettings.model_validate(long(folder, "plain", 1))
    plan = plan_stage(settings)
    mixture = Mixture(plan.data)
    loaded = build_model(settings, mixture)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in loaded.model.named_parameters():
        rate = settings.rates[loaded.family.part_of(name)]
        groups.setdefault((rate, 0.05 if parameter.ndim > 1 else 0.0), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()]
    )
    examples, head = Examples(mixture, loaded, settings), LossHead(loaded.model, loaded.family)
    order, losses = order_of(mixture, plan, settings), []
    for step in range(LONG):
        for part in optimizer.param_groups:
            part["lr"] = part["peak"] * rate_factor(step, LONG, 0.2, "cosine")
        batches = work_of(
            examples, order.batch(step), Worker(0, 1, torch.device("cpu")), 1, torch.float32
        ).batches
        # A layer that nothing uses: torch leaves what has no gradient out, a flat group decays it.
        for parameter in loaded.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        losses.append(0.0)
        for batch in batches:
            loss = head(batch)[0] / sum(b.learned for b in batches)
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
        optimizer.step()
    return losses, {n: p.detach().flatten() for n, p in loaded.model.named_parameters()}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("zero", ZEROS)
def test_zero_equals_plain_adamw(runs, plain, zero, world):
    losses, weights = plain
    theirs = [row["loss"] for row in metrics(runs / f"long-{zero}-{world}")]
    assert losses[0] - losses[-1] > 1  # something was learned
    assert theirs == pytest.approx(losses, abs=EXACT)
    ended = state(runs / f"long-{zero}-{world}", LONG).tensors
    masters = {name: tensor for (kind, name), tensor in ended.items() if kind == "master"}
    assert masters.keys() == weights.keys()
    assert max(float((masters[n] - w).abs().max()) for n, w in weights.items()) < 2e-5


@pytest.mark.parametrize("name", [*map(name_of, COMBINATIONS), *SPECIAL])
def test_stopped_at_every_step_it_is_the_same_bit_for_bit(runs, name):
    whole, stopped = runs / f"{name}-whole", runs / f"{name}-stopped"
    assert metrics(stopped) == metrics(whole)
    for step in range(1, SHORT + 1):
        assert same(state(whole, step), state(stopped, step)), step
    assert len({r["attempt"] for r in records(Store(str(stopped)))}) == SHORT  # it did start again each time
    assert not same(state(whole, SHORT - 1), state(whole, SHORT))


@pytest.mark.parametrize("name", [*(f"moved-{z}" for z in ZEROS), "grown", "other-stage"])
def test_another_number_of_workers_or_zero_stage_continues(runs, name):
    """2 -> 1 -> 2, 1 -> 3, and ZeRO-2 -> ZeRO-3: the same samples, and losses within the goal."""
    whole = runs / f"whole-{name[-1] if name.startswith('moved') else 2}"
    worlds = [r["world"] for r in records(Store(str(runs / name)))]
    assert worlds == {"grown": [1] * 3 + [3] * 3, "other-stage": [2] * 6}.get(name, [2, 2, 1, 1, 2, 2])
    mine, theirs = metrics(runs / name), metrics(whole)
    assert [r["loss"] for r in mine] == pytest.approx([r["loss"] for r in theirs], abs=EXACT)
    assert [r["learned_tokens"] for r in mine] == [r["learned_tokens"] for r in theirs]
    assert apart(state(runs / name, 6), state(whole, 6)) < 2e-5
    assert seen(runs / name) == seen(whole)


def seen(out: Path) -> list[dict]:
    import pyarrow as pa

    chain = records(Store(str(out)))[-1]["ledger"]
    tables = [pa.ipc.open_file(out / entry["path"]).read_all() for entry in chain]
    return pa.concat_tables(tables).to_pylist()


def test_the_ledger_proves_each_sample_once_an_epoch(runs):
    for name in ("moved-3", "grown", "full-moved"):
        out = runs / (name if name != "full-moved" else "long-2-2")
        record = records(Store(str(out)))[-1]
        chain = [entry["path"] for entry in record["ledger"]]
        steps = record["step"]
        assert ledger_facts(Store(str(out)), chain, steps, [8] * -(-steps // 3), True)["epochs"] == steps // 3
        assert len({(r["epoch"], r["id"]) for r in seen(out)}) == len(seen(out))


def test_a_checkpoint_has_twelve_bytes_for_each_number_that_learns(runs):
    for name in (*(f"{name_of(c)}-whole" for c in COMBINATIONS), *(f"{s}-whole" for s in SPECIAL)):
        record = records(Store(str(runs / name)))[-1]
        files = list((runs / name / record["folder"]).iterdir())
        assert sum(f.stat().st_size for f in files) <= 14 * 1.05 * record["elements"], name
        assert sum(len(t) for t in state(runs / name, SHORT).tensors.values()) == 3 * record["elements"]


@pytest.mark.parametrize("name", ["full", "lora"])
def test_the_export_says_what_the_engine_says(runs, name):
    out = runs / {"full": "whole-3", "lora": "lora"}[name]
    values = (
        elastic(runs, "whole-3", 3, None).values if name == "full" else short(runs, "lora", "lora", 2, "fp32")
    )
    settings = StageSettings.model_validate({**values, "out": str(out)})
    plan = plan_stage(settings)
    logits = runs / f"logits-{name}.pt"
    base = None
    if name == "lora":
        base = str(runs / "base")
        from raypipe.model.build import save_model

        fresh = build_model(settings.model_copy(update={"lora": None}), Mixture(plan.data))
        save_model(fresh, fresh.card, Path(base))
    group(2, runs / f"group-logits-{name}", [Case(str(logits), settings.model_dump(mode="json"))], forward)
    assert export_run(plan, settings) == records(Store(str(out)))[-1]["step"]
    loaded = load_model(str(out / "model"), base)
    theirs = torch.load(logits, weights_only=True)
    mine = logits_of(loaded, LossHead(loaded.model, loaded.family), settings, plan)
    assert mine.shape == theirs.shape
    assert float((mine - theirs).abs().max()) < 1e-5  # rounding: an engine's weights lie in one flat tensor
    assert float(mine.abs().max()) > 1
    if name == "full":
        exported = {n: p.detach().flatten() for n, p in loaded.model.named_parameters()}
        ended = state(out, 6).tensors
        assert all(torch.equal(exported[n], t) for (kind, n), t in ended.items() if kind == "master")


def logits_of(loaded, head, settings, plan) -> torch.Tensor:
    """The logits at all learned positions of the videos of a stage's data."""
    examples = Examples(Mixture(plan.data), loaded, settings)
    batch = work_of(examples, (0, 2), Worker(0, 1, torch.device("cpu")), 2, torch.float32).batches[0]
    kept: list[torch.Tensor] = []
    inner = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
    hook = inner.lm_head.register_forward_hook(lambda module, args, out: kept.append(out.detach().clone()))
    loaded.model.eval()
    with torch.no_grad():
        head(batch)
    hook.remove()
    return kept[0]


def forward(case: Case, rank: int, world: int) -> None:
    """Restores the newest checkpoint into an engine and keeps what it answers."""
    from raypipe.train.engine import start_engine
    from raypipe.train.state import restore

    settings = StageSettings.model_validate(case.values)
    plan = plan_stage(settings)
    loaded = build_model(settings, Mixture(plan.data))
    engine = start_engine(loaded, settings)
    store = Store(settings.out)
    restore(engine, store, records(store)[-1])
    found = logits_of(loaded, engine, settings, plan)
    if rank == 0:
        torch.save(found, case.name)


@contextlib.contextmanager
def broken_pixels(name: str):
    """The pixels of one sample are not numbers."""
    from raypipe.train import work

    real = work.collate

    def collate(rows, *args, **more):
        batch = real(rows, *args, **more)
        if any(e.id == name for row in rows for e in row):
            batch.pixels[MediumKind.IMAGE].fill_(float("nan"))
        return batch

    with mock.patch.object(work, "collate", collate):
        yield


@contextlib.contextmanager
def broken_gradients(step: int):
    """The projector's gradients are infinite from a step on, though the loss is finite."""
    from raypipe.train import loop

    real = loop._Loop._step

    def _step(self, at, ahead):
        if at == step:
            for parameter, name in self.engine.trained_names.items():
                if "multi_modal_projector" in name:
                    parameter.register_hook(lambda gradient: gradient * float("inf"))
        return real(self, at, ahead)

    with mock.patch.object(loop._Loop, "_step", _step):
        yield


def harmed(case: Case, rank: int, world: int) -> None:
    """A run that must end with an error; keeps what it says."""
    settings = StageSettings.model_validate(case.values)
    kind, _, what = case.harm.partition(":")
    harm = broken_pixels(what) if kind == "loss" else broken_gradients(int(what))
    with harm, pytest.raises(RaypipeError) as fault:
        once(plan_stage(settings), settings, rank, world, Stopping(None))
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"said-{rank}.txt").write_text(fault.value.message)


def test_what_is_not_finite_stops_the_run_and_is_named(folder):
    settings = StageSettings.model_validate(long(folder, "x", 1))
    plan = plan_stage(settings)
    mixture = Mixture(plan.data)
    name = mixture.sample(4).id  # the image alone
    order = order_of(mixture, plan, settings)
    step = next(s for s in range(9) if 4 in order.batch(s))
    cases = [Case("loss", long(folder, f"loss-{z}", z), harm=f"loss:{name}") for z in (2, 3)]
    cases += [Case("gradient", long(folder, f"gradient-{z}", z), harm="gradient:2") for z in ZEROS]
    group(2, folder / "group-harmed", cases, harmed)
    for zero in (2, 3):
        said = {(folder / f"loss-{zero}/said-{rank}.txt").read_text() for rank in range(2)}
        assert said == {f"the loss is not finite at step {step + 1}; samples: {name}"}
    for zero in ZEROS:
        said = {(folder / f"gradient-{zero}/said-{rank}.txt").read_text() for rank in range(2)}
        (line,) = said
        assert line.startswith("the gradient is not finite at step 3 in multi_modal_projector; samples: ")
        assert {mixture.sample(n).id for n in order.batch(2)} == set(
            line.partition("samples: ")[2].split(", ")
        )
    rows = metrics(folder / "gradient-2")
    assert all(row["step"] < 3 for row in rows)


def test_the_last_checkpoint_is_not_made_again(runs):
    """A driver that was killed between the end of training and the export starts the ranks once more."""
    out = runs / "again"
    shutil.copytree(runs / "whole-2", out)
    before = (out / "checkpoints/step-00000006.json").read_bytes()
    values = {**elastic(runs, "whole-2", 2, None).values, "out": str(out)}
    group(1, runs / "group-again", [Case("again", values)], partial(run))
    assert (out / "checkpoints/step-00000006.json").read_bytes() == before
    assert metrics(out) == metrics(runs / "whole-2")
