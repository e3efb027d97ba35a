"""Checkpoints in the reference's layouts: read whole, in parts and as results; written back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raypipe.cli import main
from raypipe.errors import RequestError
from raypipe.evaluate.ask import ask
from raypipe.model.build import from_parts, load_model, save_model, with_projector
from raypipe.model.lora import merge
from raypipe.model.to_original import to_original
from tests.model.answers import IMAGE, VIDEO, close, logits, naive_logits, parts_of, pixels, with_lora
from tests.support.clips import write_clip
from tests.support.originals import FRAMES, SIDE, Draw, projector


@pytest.mark.parametrize("kinds", [(VIDEO, IMAGE), (IMAGE,), (VIDEO,), ()])
def test_a_whole_checkpoint_answers_as_written_out(originals, kinds):
    loaded = load_model(originals.whole)
    assert (loaded.family.name, loaded.side) == ("video_llava", SIDE)
    card = loaded.card
    assert (card.image_aspect, card.template, card.pixels) == ("pad", "v1", "reference")
    assert card.rendition.short_side is None  # such pixels are made of frames in their own size
    assert loaded.card.sampling.frames == loaded.family.frames(loaded.config) == FRAMES
    close(logits(loaded, kinds), naive_logits(originals.tensors, kinds))


def test_precision_is_that_asked_for(originals):
    model = load_model(originals.whole, precision="bf16").model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])


def test_safetensors_are_read_as_well(originals, copied):
    for file in copied.glob("pytorch_model*"):
        file.unlink()
    save_file(originals.tensors, copied / "model.safetensors")
    close(logits(load_model(str(copied))), naive_logits(originals.tensors))


def test_a_checkpoint_saved_by_an_old_torch_is_read(originals, copied):
    for file in copied.glob("pytorch_model*"):
        file.unlink()
    torch.save(originals.tensors, copied / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    close(logits(load_model(str(copied))), naive_logits(originals.tensors))


def test_parts_with_the_projector_are_the_whole(originals):
    loaded = from_parts(parts_of(originals, projector=f"{originals.stage1}/mm_projector.bin"), seed=0)
    close(logits(loaded), naive_logits(originals.tensors))
    assert loaded.folder is None
    assert loaded.config.video_tower_name == originals.video


def test_a_fresh_projector_is_of_its_seed_and_leaves_the_random_state_alone(originals):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, again, other = (from_parts(parts_of(originals), seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected)
    weights = [dict(m.model.model.multi_modal_projector.named_parameters()) for m in (first, again, other)]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    assert not any(torch.equal(weights[0][n], weights[2][n]) for n in weights[0])
    assert 0 < float(weights[0]["linear_2.weight"].detach().abs().max()) <= 48**-0.5  # torch's own linear


def test_a_clip_tower_stands_in_for_the_video_tower(originals):
    loaded = from_parts(parts_of(originals, video_tower=originals.image), seed=0)
    frames = pixels(VIDEO, 5)
    with torch.no_grad():
        seen = loaded.model.model.video_tower(frames).last_hidden_state
        torch.testing.assert_close(seen, loaded.model.model.image_tower(frames).last_hidden_state)


@pytest.mark.parametrize("base", ["llm", "whole"])
def test_a_projector_alone_needs_its_base(originals, base):
    with pytest.raises(RequestError, match="a projector without its model") as fault:
        load_model(originals.stage1)
    assert "model_base" in fault.value.remedy
    loaded = load_model(originals.stage1, getattr(originals, base))
    assert loaded.card.image_aspect == "square"
    close(logits(loaded), naive_logits(originals.tensors))


@pytest.mark.parametrize("prefix", ["model.", "base_model.model.model.", ""])
def test_a_projector_is_replaced_under_any_prefix(originals, tmp_path, prefix):
    fresh = projector(Draw(77))
    torch.save({prefix + key: tensor for key, tensor in fresh.items()}, tmp_path / "mm_projector.bin")
    loaded = with_projector(load_model(originals.whole), str(tmp_path / "mm_projector.bin"))
    expected = originals.tensors | {f"model.{key}": tensor for key, tensor in fresh.items()}
    close(logits(loaded), naive_logits(expected))


def test_a_projector_comes_out_of_a_model_folder(originals, tmp_path):
    made = with_projector(load_model(originals.whole), originals.lora + "/non_lora_trainables.bin")
    save_model(made, made.card, tmp_path)
    loaded = with_projector(load_model(originals.whole), str(tmp_path))
    theirs = {k.removeprefix("base_model.model."): t for k, t in originals.beside.items()}
    close(logits(loaded), naive_logits(originals.tensors | theirs))


@pytest.mark.parametrize("base", ["llm", "whole"])
def test_a_lora_result_over_its_base_unmerged_and_merged(originals, base, tmp_path):
    with pytest.raises(RequestError, match="LoRA adapter"):
        load_model(originals.lora)
    below = getattr(originals, base)
    expected = naive_logits(with_lora(originals))
    assert float((expected - naive_logits(originals.tensors)).abs().max()) > 1e-2
    close(logits(load_model(originals.lora, below)), expected)
    merged = load_model(str(merge(originals.lora, below, str(tmp_path / "merged"))))
    close(logits(merged), expected)
    assert merged.card.image_aspect == "pad"


def test_our_save_of_a_lora_result_is_loaded_over_the_language_model(originals, tmp_path):
    loaded = load_model(originals.lora, originals.whole)
    save_model(loaded, loaded.card, tmp_path)
    for base in (originals.whole, originals.llm):
        close(logits(load_model(str(tmp_path), base)), naive_logits(with_lora(originals)))


@pytest.mark.parametrize(("precision", "shard_bytes"), [("fp32", 10**9), ("bf16", 20_000)])
def test_a_whole_checkpoint_goes_round(originals, tmp_path, precision, shard_bytes):
    to_original(load_model(originals.whole, precision=precision), tmp_path, shard_bytes)
    files = sorted(tmp_path.glob("pytorch_model*.bin"))
    assert (len(files) > 1) is (shard_bytes < 10**9)
    written: dict = {}
    for file in files:
        written |= torch.load(file, weights_only=True)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert written.keys() == originals.tensors.keys()
    for key, tensor in originals.tensors.items():
        assert written[key].dtype == dtype
        assert torch.equal(written[key], tensor.to(dtype)), key
    alone = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    assert alone.keys() == {k for k in originals.tensors if ".mm_projector." in k}
    assert (tmp_path / "tokenizer.model").read_bytes() == Path(
        originals.whole, "tokenizer.model"
    ).read_bytes()
    theirs, mine = (json.loads(Path(f, "config.json").read_text()) for f in (originals.whole, tmp_path))
    assert {k: mine[k] for k in theirs} == theirs
    if precision == "fp32":
        close(logits(load_model(str(tmp_path))), naive_logits(originals.tensors))


def test_a_lora_result_goes_round(originals, tmp_path):
    to_original(load_model(originals.lora, originals.whole), tmp_path)
    for name, theirs in (("adapter_model", originals.adapter), ("non_lora_trainables", originals.beside)):
        mine = torch.load(tmp_path / f"{name}.bin", weights_only=True)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    theirs, mine = (
        json.loads(Path(f, "adapter_config.json").read_text()) for f in (originals.lora, tmp_path)
    )
    assert sorted(mine.pop("target_modules")) == sorted(theirs.pop("target_modules"))
    assert {k: mine[k] for k in theirs} == theirs
    close(logits(load_model(str(tmp_path), originals.llm)), naive_logits(with_lora(originals)))


def test_merge_writes_the_original_layout(originals, tmp_path):
    out = str(tmp_path / "merged")
    said = ["merge", "--adapter", originals.lora, "--model-base", originals.llm, "--out", out]
    assert main([*said, "--layout", "original"]) == 0
    assert json.loads(Path(out, "config.json").read_text())["model_type"] == "llava"
    close(logits(load_model(out)), naive_logits(with_lora(originals)))
    again = merge(originals.whole, None, str(tmp_path / "whole"), "original")
    close(logits(load_model(str(again))), naive_logits(originals.tensors))
    with pytest.raises(RequestError, match="no layout 'gguf'"):
        merge(originals.whole, None, str(tmp_path / "x"), "gguf")


def test_transformers_videollava_has_no_place_in_the_original_layout(tiny_folder, tmp_path):
    with pytest.raises(RequestError, match="no place in the original layout"):
        to_original(load_model(str(tiny_folder)), tmp_path)


def test_a_question_is_answered_by_what_the_reference_left(originals, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 16)
    said = [ask(originals.whole, None, str(clip), "what moves", 24)]
    said += [
        ask(originals.lora, below, str(clip), "what moves", 24) for below in (originals.llm, originals.whole)
    ]
    assert said[1] == said[2]
    assert said[0] != said[1]


def test_words_and_logits_that_share_a_weight(originals, tmp_path):
    """A language model that is saved without lm_head, as small Llamas are."""
    llm = Path(shutil.copytree(originals.llm, tmp_path / "llm"))
    body = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps({**body, "tie_word_embeddings": True}))
    found: dict = {}
    for file in llm.glob("pytorch_model*"):
        found |= torch.load(file, weights_only=True) if file.suffix == ".bin" else {}
        file.unlink()
    save_file({k: t for k, t in found.items() if k != "lm_head.weight"}, llm / "model.safetensors")
    tied = from_parts(
        parts_of(originals, language_model=str(llm), projector=f"{originals.stage1}/mm_projector.bin"), 0
    )
    assert tied.model.lm_head.weight is tied.model.get_input_embeddings().weight
    save_model(tied, tied.card, tmp_path / "saved")
    expected = naive_logits(
        {**originals.tensors, "lm_head.weight": originals.tensors["model.embed_tokens.weight"]}
    )
    for loaded in (tied, load_model(str(tmp_path / "saved"))):
        close(logits(loaded), expected)
