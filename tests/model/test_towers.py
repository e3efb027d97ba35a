"""The temporal video tower against the traces of the reference's, and Video-LLaVA around it."""

import logging

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from raypipe.model import build
from raypipe.model.build import load_model, save_model
from raypipe.model.splice import LossHead
from raypipe.model.towers import TemporalVisionConfig, TemporalVisionModel
from raypipe.model.video_llava import TemporalVideoLlavaForConditionalGeneration
from raypipe.records import MediumKind
from tests.model.batches import MIXES, batch, theirs
from tests.support import reference_data
from tests.support.tiny import tiny_model

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "gelu",
}


@pytest.fixture(scope="module")
def loaded():
    return tiny_model(family="video_llava")


@pytest.mark.parametrize("frames", [8, 1])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_tower_equals_the_trace(frames, attention):
    trace = np.load(reference_data("golden") / f"traces/tower/tower_T{frames}.npz")
    tower = TemporalVisionModel(TemporalVisionConfig(**SHAPE, num_frames=frames)).eval()
    tower.set_attn_implementation(attention)
    weights = {k.removeprefix("w:"): torch.from_numpy(trace[k]) for k in trace if k.startswith("w:")}
    tower.load_state_dict(weights, strict=True)
    pixels_BCTHW = torch.from_numpy(trace["pixel_values_BCTHW"])
    with torch.no_grad():
        hidden = tower(pixels_BCTHW.transpose(1, 2).flatten(0, 1), output_hidden_states=True).hidden_states
    for index, name in ((1, "hidden_1_BTNC"), (-2, "hidden_minus2_BTNC")):
        mine = hidden[index].unflatten(0, (-1, frames))
        assert mine.shape == trace[name].shape
        assert float((mine - torch.from_numpy(trace[name])).abs().max()) < 1e-5


def test_one_frame_is_not_embedded_in_time():
    tower = TemporalVisionModel(TemporalVisionConfig(**SHAPE)).eval()
    pixels = torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = tower(pixels, num_frames=1).last_hidden_state
        for layer in tower.encoder.layers:
            layer.temporal_embedding.add_(1.0)
        assert torch.equal(tower(pixels, num_frames=1).last_hidden_state, alone)
        assert (tower(pixels).last_hidden_state - alone).abs().max() > 1e-2


def test_frames_that_are_no_whole_clips_are_refused():
    tower = TemporalVisionModel(TemporalVisionConfig(**SHAPE))
    with pytest.raises(ValueError, match="no whole clips of 8"):
        tower(torch.zeros(7, 3, 28, 28))
    with pytest.raises(ValueError, match="clips of 4 frames for a tower of 8"):
        tower(torch.zeros(8, 3, 28, 28), num_frames=4)


@pytest.mark.parametrize("mix", MIXES)
def test_our_loss_is_that_of_transformers_own_forward(loaded, mix):
    made = batch(loaded, mix)
    with torch.no_grad():
        reference = theirs(loaded.model, made)
        loss, _ = LossHead(loaded.model, loaded.family)(made)
    assert reference.logits.shape[-1] == loaded.tokenizer.get_vocab_size()  # no logits for placeholders
    assert float(loss) / made.learned == pytest.approx(float(reference.loss), abs=1e-5)


def test_the_order_of_frames_matters_and_clips_do_not_mix(loaded):
    """What transformers' VideoLlava lacks: it sees each frame for itself."""
    pixels = batch(loaded, "video").pixels[MediumKind.VIDEO]
    hf = tiny_model()
    turned = pixels.flip(0)
    for model, attends in ((loaded.model, True), (hf.model, False)):
        tower = model.model.video_tower
        with torch.no_grad():
            one, back = (tower(p).last_hidden_state for p in (pixels, turned))
            both = tower(torch.cat((turned, pixels))).last_hidden_state
        assert bool((back.flip(0) - one).abs().max() > 1e-3) is attends
        torch.testing.assert_close(both[8:], one, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_weight_of_the_tower(loaded):
    model = tiny_model(family="video_llava").model
    LossHead(model, loaded.family)(batch(loaded, "video"))[0].backward()
    names = [n for n, _ in model.model.video_tower.named_parameters()]
    last = f"encoder.layers.{model.config.video_config.num_hidden_layers - 1}."
    used = [n for n in names if not n.startswith((last, "post_layernorm"))]  # the feature is the last but one
    grads = {n: p.grad for n, p in model.model.video_tower.named_parameters()}
    # A bias of keys shifts all scores of a query alike: nothing depends on it.
    dead = [n for n in used if not n.endswith("k_proj.bias") and (grads[n] is None or not grads[n].any())]
    assert any("temporal_embedding" in n for n in used)
    assert dead == []
    embedded = model.get_input_embeddings().weight.grad
    assert not embedded[0].any()  # what placeholders are looked up as learns nothing


def test_the_export_is_loaded_by_transformers_through_our_classes(loaded, tmp_path):
    save_model(loaded, loaded.card, tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "video_llava_temporal"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert type(again) is TemporalVideoLlavaForConditionalGeneration
    mine, kept = loaded.model.state_dict(), again.state_dict()
    assert mine.keys() == kept.keys()
    assert all(torch.equal(mine[k], kept[k]) for k in mine)
    ours = load_model(str(tmp_path))
    assert (ours.family.name, ours.side, ours.family.frames(ours.config)) == ("video_llava", 28, 8)
    made = batch(loaded, "video")
    clips = made.pixels[MediumKind.VIDEO].unflatten(0, (-1, 8))
    asked = {"input_ids": made.ids_BL, "attention_mask": made.mask_BL, "pixel_values_videos": clips}
    with torch.no_grad():
        new = again.generate(**asked, max_new_tokens=6, do_sample=False)[0, made.ids_BL.shape[1] :].tolist()
        step = again(**asked).logits[0, -1].argmax()
    assert len(new) >= 1
    assert new[0] == int(step)


def test_loading_a_family_with_a_note_says_it_once(tmp_path, caplog):
    save_model(tiny_model(), tiny_model().card, tmp_path)
    build._noted.cache_clear()
    with caplog.at_level(logging.WARNING, "raypipe.model"):
        load_model(str(tmp_path))
        load_model(str(tmp_path))
    said = [r.getMessage() for r in caplog.records if r.name == "raypipe.model"]
    assert len(said) == 1
    assert "does not attend over time" in said[0]
