"""Every way a stage can start, without training: which weights it has, and what an adapter is saved with."""

from pathlib import Path

import pytest
import torch

from raypipe.errors import RequestError
from raypipe.model.build import load_model, save_model
from raypipe.settings import Lora, StageSettings
from raypipe.store.run import Manifest, Run
from raypipe.train.mixture import Mixture
from raypipe.train.start import build_model
from tests.model.answers import close, logits, naive_logits, with_lora
from tests.support.originals import Draw, projector
from tests.support.prepared import drawn_run

LORA = {"r": 4, "alpha": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Mixture:
    folder = tmp_path_factory.mktemp("start")
    drawn_run(folder)
    return Mixture([str(folder / "run")])


def stage(out: Path, start: dict, **more) -> StageSettings:
    values = {
        "name": "s",
        "out": str(out),
        "start": start,
        "mixture": [{"data": "unused"}],
        "precision": "fp32",
    }
    return StageSettings.model_validate({**values, **more})


def parts(originals) -> dict:
    return {"language_model": originals.llm, "image_tower": originals.image, "video_tower": originals.video}


def finished_run(out: Path, loaded) -> str:
    """A finished stage with this model, as the loop leaves it."""
    run = Run.start(str(out), "train", stage(out, {"random": "tiny"}))
    save_model(loaded, loaded.card, out / "model")
    run.commit(Manifest("train", [], {"inputs": 0, "ok": 0, "quarantined": 0}), [])
    return str(out)


def test_random_weights_are_of_the_family_that_is_named(mixture, tmp_path):
    made = build_model(stage(tmp_path, {"random": "tiny", "seed": 4}), mixture)
    assert made.family.name == "video_llava"  # the real one is what a stage has by default
    assert made.model.training
    hf = build_model(stage(tmp_path, {"random": "tiny", "family": "video_llava_hf"}), mixture)
    assert hf.config.model_type == "video_llava"
    with pytest.raises(RequestError, match="no model family 'video_lava'") as fault:
        build_model(stage(tmp_path, {"random": "tiny", "family": "video_lava"}), mixture)
    assert "did you mean 'video_llava" in fault.value.remedy


def test_stage_one_starts_from_parts_and_its_projector_goes_into_stage_two(originals, mixture, tmp_path):
    first = build_model(stage(tmp_path, {"parts": parts(originals), "seed": 5}), mixture)
    with torch.no_grad():
        for name, parameter in first.model.named_parameters():
            if "multi_modal_projector" in name:
                parameter.add_(0.1)
    run = finished_run(tmp_path / "stage1", first)
    expected = logits(first)
    close(logits(load_model(run)), expected)
    for start in (
        {"parts": {**parts(originals), "projector": run}},
        {"parts": parts(originals), "seed": 6, "projector": run},
        {"model": originals.whole, "projector": run},
    ):
        close(logits(build_model(stage(tmp_path, start), mixture)), expected)


def test_a_start_from_results_of_the_reference(originals, mixture, tmp_path):
    whole = build_model(stage(tmp_path, {"model": originals.whole}), mixture)
    close(logits(whole), naive_logits(originals.tensors))
    alone = build_model(stage(tmp_path, {"model": originals.stage1, "model_base": originals.llm}), mixture)
    close(logits(alone), naive_logits(originals.tensors))


def test_an_adapter_that_is_started_from_is_merged(originals, mixture, tmp_path):
    start = {"model": originals.lora, "model_base": originals.llm}
    made = build_model(stage(tmp_path, start), mixture)
    assert not hasattr(made.model, "peft_config") or not hasattr(made.model, "merge_and_unload")
    names = [name for name, _ in made.model.named_parameters()]
    assert {made.family.part_of(name) for name in names} == set(made.family.parts)
    assert all(p.requires_grad for p in made.model.parameters())
    close(logits(made), naive_logits(with_lora(originals)))
    with pytest.raises(RequestError, match="LoRA adapter") as fault:
        build_model(stage(tmp_path, start, lora=LORA), mixture)
    assert "merge" in fault.value.remedy


@pytest.mark.parametrize("way", ["parts", "model", "projector", "stage1"])
def test_lora_over_any_start_is_loaded_over_what_it_names(originals, mixture, tmp_path, way):
    fresh = tmp_path / "mm_projector.bin"
    torch.save({f"model.{key}": t for key, t in projector(Draw(5)).items()}, fresh)
    start = {
        "parts": {"parts": parts(originals), "seed": 3},
        "model": {"model": originals.whole},
        "projector": {"model": originals.whole, "projector": str(fresh)},
        "stage1": {"model": originals.stage1, "model_base": originals.llm},
    }[way]
    rates = {} if way != "model" else {"multi_modal_projector": 1e-4}
    made = build_model(stage(tmp_path, start, lora=LORA, rates=rates), mixture)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(made, made.card, tmp_path / "adapter")
    named = made.model.peft_config["default"].base_model_name_or_path
    assert named == (originals.llm if way in ("parts", "stage1") else originals.whole)
    expected = logits(made)
    before = logits(build_model(stage(tmp_path, start), mixture))
    assert float((expected - before).abs().max()) > 1e-2
    close(logits(load_model(str(tmp_path / "adapter"), named)), expected)


def test_the_defaults_of_lora_are_of_the_language_model_alone(originals, mixture, tmp_path):
    made = build_model(stage(tmp_path, {"model": originals.whole}, lora=Lora().model_dump()), mixture)
    learns = {n for n, p in made.model.named_parameters() if "lora_" in n and p.requires_grad}
    assert len(learns) == 2 * 2 * 7  # layers, matrices, linear layers of each
    assert all(".language_model." in name for name in learns)
