"""The second family: what only it has. The loss head's tests take both families."""

import numpy as np
import pytest
import torch

from raypipe.errors import RequestError
from raypipe.model.build import Card, LoadedModel, load_model, save_model
from raypipe.model.families import family_named
from raypipe.model.llava_onevision import LLAVA_ONEVISION, random
from raypipe.model.splice import LossHead, features
from raypipe.records import MediumKind
from tests.model.batches import batch
from tests.support.tiny import tiny_model, tiny_tokenizer

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO


def test_visual_tokens_of_the_published_shape():
    """384 px in patches of 14: 27 x 27 and a newline; pooled to 14 x 14 a frame, one newline a video."""
    config = random("7b", 151645)
    tokens = LLAVA_ONEVISION.visual(config)
    assert (tokens[IMAGE].count, tokens[VIDEO].count) == (730, 8 * 196 + 1)
    config.video_frames = 32
    assert LLAVA_ONEVISION.visual(config)[VIDEO].count == 6273
    assert (tokens[IMAGE].token_id, tokens[VIDEO].token_id) == (151645, 151646)
    assert LLAVA_ONEVISION.side(config) == 384


@pytest.mark.parametrize("side", [28, 42, 70])
def test_features_equal_transformers_for_even_and_odd_grids(side):
    config = random("tiny", 500)
    config.vision_config.image_size = side
    config.image_grid_pinpoints = [[side, side]]
    torch.manual_seed(1)
    model = LLAVA_ONEVISION.cls(config).eval()
    clips = torch.randn(2, 8, 3, side, side)
    images = torch.randn(3, 3, side, side)
    with torch.no_grad():
        theirs = model.model.get_video_features(clips).pooler_output
        ours = features(model, LLAVA_ONEVISION, VIDEO, clips.flatten(0, 1))
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        views = model.model.get_image_features(
            images, torch.tensor([[side, side]] * 3), batch_num_images=torch.tensor([3])
        ).pooler_output
        ours = features(model, LLAVA_ONEVISION, IMAGE, images)
        torch.testing.assert_close(ours, torch.stack(views), atol=1e-6, rtol=1e-5)
    assert ours.shape[1] == LLAVA_ONEVISION.visual(config)[IMAGE].count


def test_saved_and_loaded_it_is_the_same_model(tmp_path):
    loaded = tiny_model(family="llava_onevision")
    loaded.config.video_frames = 4
    save_model(loaded, Card(template="v1", pixels="reference"), tmp_path)
    again = load_model(str(tmp_path))
    assert again.family is LLAVA_ONEVISION is family_named("llava_onevision")
    assert again.family.frames(again.config) == 4
    assert again.card.pixels == "reference"
    made = batch(loaded, "images")
    with torch.no_grad():
        losses = [float(LossHead(m.model, m.family)(made)[0]) for m in (loaded, again)]
    assert losses[0] == losses[1]
    look = again.look("pad", "antialias")
    assert (look.side, look.mean) == (28, (0.5, 0.5, 0.5))
    black = np.zeros((28, 28, 3), dtype=np.uint8)
    assert (look.pixels(look.frames([black], IMAGE)) == -1).all()


def test_every_parameter_has_a_part():
    loaded = tiny_model(family="llava_onevision")
    parts = {loaded.family.part_of(n) for n, _ in loaded.model.named_parameters()}
    assert parts == {"language_model", "multi_modal_projector", "image_newline", "vision_tower"}


def test_its_chat_puts_as_many_placeholders_as_there_are_features():
    loaded: LoadedModel = tiny_model(family="llava_onevision")
    ids = loaded.chat("v1").prompt("Which?", (VIDEO, IMAGE))
    tokens = loaded.family.visual(loaded.config)
    for kind, count in ((VIDEO, 8 * 1 + 1), (IMAGE, 4 + 1)):
        assert ids.count(tokens[kind].token_id) == tokens[kind].count == count
    assert tokens[IMAGE].token_id == tiny_tokenizer().get_vocab_size()


def test_an_unknown_family_or_size_is_named():
    with pytest.raises(RequestError, match="no model family 'llava_onevison'") as raised:
        family_named("llava_onevison")
    assert "llava_onevision" in str(raised.value.remedy)
    with pytest.raises(RequestError, match="no size '70b'"):
        random("70b", 500)


def test_it_learns_through_the_same_loss_head_and_comes_back_from_its_export(tmp_path):
    loaded = tiny_model(family="llava_onevision")
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(loaded.family.part_of(name) != "vision_tower")
    head = LossHead(loaded.model.train(), loaded.family)
    learns = [p for p in head.parameters() if p.requires_grad]
    assert len(list(head.parameters())) == len(learns)  # the tower is not among them
    optimizer, losses = torch.optim.AdamW(learns, lr=2e-3), []
    mixes = [batch(loaded, mix) for mix in ("mixed", "text", "both")]
    for step in range(45):
        made = mixes[step % 3]
        total, _ = head(made)
        loss = total / made.learned
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.2 * sum(losses[:3])
    head.restore()
    save_model(loaded, Card(template="v1"), tmp_path)
    again = load_model(str(tmp_path))
    with torch.no_grad():
        finals = [float(LossHead(m.model, m.family)(mixes[0])[0]) for m in (loaded, again)]
    assert finals[0] == finals[1]
