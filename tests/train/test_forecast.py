"""What is foretold of a stage is what the stage then does: steps, tokens, weights, states, files."""

import json
from pathlib import Path

import pytest
import torch

from raypipe.errors import RequestError
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.store.journal import rows as rows_of
from raypipe.train.checkpoints import records
from raypipe.train.export import export_run
from raypipe.train.forecast import forecast
from raypipe.train.memory import BYTES, Load, memory_of, share_of
from raypipe.train.metrics import METRICS
from raypipe.train.plan import plan_stage
from raypipe.train.status import Status
from tests.support.prepared import drawn_run
from tests.train.ranks import Case, group, once, stage

WORLD = 2
RANDOM = {"random": "tiny", "seed": 3}
CASES = {  # name -> what learns, ZeRO stage, more settings
    "full-1": ("full", 1, {"precision": "bf16"}),
    "full-2": ("full", 2, {"precision": "bf16"}),
    "full-3": ("full", 3, {"precision": "bf16"}),
    "lora-2": ("lora", 2, {}),
    "lora-3": ("lora", 3, {"precision": "bf16"}),
    "projector-2": ("projector", 2, {"start": {**RANDOM, "family": "llava_onevision"}}),
    "projector-3": ("projector", 3, {}),
}


def weigh(case: Case, rank: int, world: int) -> None:
    """Trains an epoch, and writes down what the engine of this rank then holds."""
    from raypipe.train import loop, state
    from raypipe.train.flops import flops_of

    engines, flops = [], []
    build, start = loop.build_model, loop.ds.start_engine

    def built(settings, mixture):
        loaded = build(settings, mixture)
        flops.append(
            flops_of(loaded.model, loaded.family, loaded.config, settings.rates, settings.lora is not None)
        )
        return loaded

    def started(loaded, settings):
        engines.append(start(loaded, settings))
        return engines[-1]

    loop.build_model, loop.ds.start_engine = built, started
    settings = StageSettings.model_validate(case.values)
    try:
        once(plan_stage(settings), settings, rank, world, Status())
    finally:
        loop.build_model, loop.ds.start_engine = build, start
    engine, model = engines[0], engines[0].module.vlm
    flats = state._flats(engine)
    weights = dict(model.named_parameters())
    engine.module.restore()
    everything = dict(model.named_parameters())
    held = {
        "optimizer": sum(flat.numel() for flat in flats),
        "moments": sum(t.nbytes for flat in flats for t in state._moments(engine, flat).values() if t.ndim),
        "total": sum(int(getattr(p, "ds_numel", p.numel())) for p in everything.values()),
        "trained": state._elements(engine),
        "outside": sum(p.nbytes for name, p in everything.items() if name not in weights),
        "inside": sum(p.nbytes for p in weights.values()),
        "frames": dict(flops[0].frame),
        "token": flops[0].token + flops[0].lora,
    }
    Path(f"{settings.out}-{rank}.json").write_text(json.dumps(held))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    drawn_run(folder)
    cases = [Case(name, values_of(folder, name)) for name in CASES]
    group(WORLD, folder / "ranks", cases, weigh)
    return folder


def values_of(folder: Path, name: str) -> dict:
    """One epoch of eight samples, three a step."""
    parts, zero, more = CASES[name]
    checkpoint = {"every_steps": 2, "keep": 9, "asynchronous": False}
    values = stage(
        folder / name, folder / "run", RANDOM, parts, zero, checkpoint=checkpoint, steps=None, epochs=1
    )
    return {**values, "workers": {"num": WORLD}, **more}


def settings_of(folder: Path, name: str) -> StageSettings:
    return StageSettings.model_validate(values_of(folder, name))


def held(folder: Path, name: str, rank: int) -> dict:
    return json.loads(Path(f"{folder / name}-{rank}.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_the_stage_does(folder, name):
    settings = settings_of(folder, name)
    plan, store = forecast(settings), Store(settings.out)
    rows = list(rows_of(store, METRICS))
    assert plan["lacks"] == []
    assert plan["steps"]["steps"] == len(rows) == 3
    assert plan["tokens"]["exact"]
    assert plan["tokens"]["in_all"] == sum(row["tokens"] for row in rows)
    made = records(store)
    assert plan["writes"]["checkpoints"] == len(made) == 2
    files = [f"{made[-1]['folder']}/{file}" for file in made[-1]["files"]]
    assert plan["writes"]["checkpoint_bytes"] == sum(payload(Path(settings.out) / file) for file in files)


@pytest.mark.parametrize("name", CASES)
def test_weights_and_states_are_exact(folder, name):
    settings = settings_of(folder, name)
    plan, ranks = forecast(settings), [held(folder, name, rank) for rank in range(WORLD)]
    memory, each = plan["memory"], BYTES[settings.precision]
    zero = settings.deepspeed.zero
    for mine in ranks:
        assert plan["model"]["total"] <= mine["total"]  # PEFT's untouched copies come on top
        assert plan["model"]["trained"] == mine["trained"]
        # What ZeRO-3 steps in fp32 is no copy: it has no fp32 master beside the weights.
        master = 0 if zero == 3 and each == 4 else 4 * mine["optimizer"]
        assert memory["steady"]["optimizer"] == master + mine["moments"]
    if zero < 3:
        assert memory["steady"]["weights"] == ranks[0]["inside"] + ranks[0]["outside"]
    else:  # the whole weights are gathered for the pass that uses them: here only the towers always lie there
        assert memory["steady"]["weights"] >= ranks[0]["outside"]
    assert memory["host"]["weights while they are loaded"] == each * ranks[0]["total"]


@pytest.mark.parametrize("name", ["full-2", "lora-2", "projector-2"])
def test_flops_are_those_that_training_counts(folder, name):
    from raypipe.train.forecast import _costs
    from raypipe.train.learns import learns_of
    from raypipe.train.mixture import Mixture
    from raypipe.train.start_outline import outline_of_start

    settings = settings_of(folder, name)
    outline, _ = outline_of_start(settings.start, Mixture([str(folder / "run")]))
    costs = _costs(outline, learns_of(outline, settings), settings)
    real = held(folder, name, 0)
    assert {str(kind): value for kind, value in costs.frame.items()} == real["frames"]
    assert costs.token + costs.lora == real["token"]


@pytest.mark.parametrize("name", ["full-2", "lora-2", "projector-2"])
def test_the_export_has_the_bytes(folder, name):
    settings = settings_of(folder, name)
    export_run(plan_stage(settings), settings)
    files = sorted((Path(settings.out) / "model").glob("*.safetensors"))
    assert sum(map(payload, files)) == forecast(settings)["writes"]["export_bytes"]


def payload(file: Path) -> int:
    with open(file, "rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    return file.stat().st_size - 8 - header


def seven(**more) -> StageSettings:
    values = {
        "name": "s",
        "out": "/nowhere/out",
        "start": {"random": "7b"},
        "mixture": [{"data": "/nowhere/data"}],
        "rates": {"language_model": 2e-5, "multi_modal_projector": 2e-5},
        "workers": {"num": 8, "gpus": 1},
    }
    return StageSettings.model_validate({**values, **more})


@pytest.mark.parametrize(
    ("zero", "gigabytes"),
    [(1, 31.4), (2, 16.6), (3, 1.9)],  # arXiv:1910.02054, figure 1: 7.5 billion weights, 64 GPUs
)
def test_states_are_those_of_the_zero_paper(zero, gigabytes):
    from raypipe.model.outline import random_outline
    from raypipe.train.learns import Learns

    count = 7_500_000_000
    learns = Learns(
        groups=((count,),),
        by_part={"language_model": count},
        frozen_shapes=(),
        outside=0,
        vectors=0,
        towers=False,
        adapters=(),
        saved=count,
    )
    settings = seven(deepspeed={"zero": zero}, global_batch=64, micro_batch=1)
    memory = memory_of(random_outline("7b", "video_llava", 32000), learns, settings, 64, Load(1, 16, 0, 0))
    states = sum(memory.steady.values()) + memory.backward["gradients"]
    assert states / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_a_7b_model_has_the_published_numbers():
    """Vicuna-7B: 6,738,415,616; a CLIP-L tower without the text half about 304 million."""
    plan = forecast(seven())
    assert plan["model"]["parameters"]["language_model"] == 6_738_415_616
    assert plan["model"]["parameters"]["image_tower"] == pytest.approx(304e6, rel=0.005)
    assert plan["writes"]["checkpoint_bytes"] == 12 * plan["model"]["trained"]


def test_more_workers_take_less_and_stages_order():
    def device(**more) -> int:
        return forecast(seven(**more))["memory"]["device_bytes"]

    one, two, three = (device(deepspeed={"zero": zero}) for zero in (1, 2, 3))
    assert one > two > three
    assert device(workers={"num": 64, "gpus": 1}) < two
    assert device(gradient_checkpointing=False) > 2 * two
    assert device(deepspeed={"zero": 2, "offload_optimizer": True}) < two
    assert device(micro_batch=1) < two
    few = {"workers": {"num": 64, "gpus": 1}, "global_batch": 64}
    assert device(**few, micro_batch=16) == device(**few, micro_batch=1), "each has one row at a time"
    assert forecast(seven(**few, micro_batch=16))["memory"]["micro_batch"] == 1
    wide = {"lora": {"r": 128}, "rates": {"multi_modal_projector": 2e-5}}
    assert device(**wide) < two


def test_partitions_are_even():
    assert share_of([[5, 4], [3]], 2, 2) == 6 + 2
    assert share_of([[5, 4], [3]], 2, 3) == 3 + 2 + 2
    assert share_of([[8]], 1, 1) == 8


def test_what_is_not_there_is_said_and_the_rest_is_planned(tmp_path):
    plan = forecast(seven(steps=70))
    assert [source["state"] for source in plan["reads"]] == ["missing"]
    assert "not a run folder" in plan["lacks"][0]
    assert plan["steps"]["steps"] == 70
    assert plan["steps"]["samples"] is None
    assert plan["tokens"] is None
    assert plan["memory"]["device_bytes"] > 0
    plan = forecast(seven(start={"model": str(tmp_path / "none")}))
    assert "no such model folder" in plan["lacks"][1]
    assert "memory" not in plan
    assert not Path("/nowhere/out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rates": {"language_modle": 1e-5}}, "no part 'language_modle'"),
        ({"rates": {}}, "nothing learns"),
        ({"lora": {"targets": "nothing"}, "rates": {}}, "lora.targets matches no module"),
        ({"start": {"random": "7b", "family": "llava"}}, "no model family"),
    ],
)
def test_what_the_stage_would_refuse_is_refused(more, said):
    if "no model family" in said:
        assert said in forecast(seven(**more))["lacks"][1]
        return
    with pytest.raises(RequestError, match=said):
        forecast(seven(**more))


def test_a_plan_imports_no_torch(folder):
    import subprocess
    import sys

    code = (
        "import sys; from raypipe.train.forecast import forecast; from raypipe.settings import StageSettings;"
        f"forecast(StageSettings.model_validate({settings_of(folder, 'lora-2').model_dump()!r}));"
        "print(sorted({'torch', 'transformers', 'ray', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


assert torch  # the ranks' processes are forked from one that has it
