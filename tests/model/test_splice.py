"""Our forward against transformers' own, and the loss head against full logits."""

import pytest
import torch
from torch.nn import functional

from raypipe.model.splice import LossHead, embed, features
from raypipe.records import MediumKind
from tests.model.batches import MIXES, batch, theirs
from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


def ours(loaded, made):
    visual = {k: features(loaded.model, loaded.family, k, p) for k, p in made.pixels.items()}
    embeds = embed(loaded.model, loaded.family, made.ids_BL, visual)
    return loaded.model(inputs_embeds=embeds, attention_mask=made.mask_BL).logits


@pytest.mark.parametrize("mix", MIXES)
def test_logits_and_loss_equal_transformers(loaded, mix):
    made = batch(loaded, mix)
    with torch.no_grad():
        reference = theirs(loaded.model, made)
        logits, (loss, _) = ours(loaded, made), LossHead(loaded.model, loaded.family)(made)
    learned = made.labels_BL[:, 1:] != -100
    assert learned.sum() == made.learned > 4
    torch.testing.assert_close(
        logits[:, :-1][learned], reference.logits[:, :-1][learned], atol=1e-5, rtol=1e-5
    )
    assert float(loss) / made.learned == pytest.approx(float(reference.loss), abs=1e-5)


def test_the_answer_depends_on_the_pixels(loaded):
    """Otherwise the comparison above says nothing about them."""
    for mix, kind in (("image", MediumKind.IMAGE), ("video", MediumKind.VIDEO)):
        made = batch(loaded, mix)
        with torch.no_grad():
            before = ours(loaded, made)
            made.pixels[kind] = made.pixels[kind].flip(-1)
            assert (ours(loaded, made) - before).abs().max() > 1e-3


@pytest.mark.parametrize("mix", ["mixed", "text"])
def test_loss_head_equals_full_logits_in_loss_and_gradients(loaded, mix):
    made = batch(loaded, mix)
    grads = []
    for whole in (True, False):
        model = tiny_model().model
        if whole:
            logits = theirs(model, made).logits[:, :-1].reshape(-1, model.config.text_config.vocab_size)
            targets = made.labels_BL[:, 1:].reshape(-1)
            loss = functional.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
        else:
            loss, _ = LossHead(model, loaded.family)(made)
        (loss / made.learned).backward()
        grads.append((loss.item(), {n: p.grad for n, p in model.named_parameters()}))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-6)
    compared = 0
    for name, reference in grads[0][1].items():
        mine = grads[1][1][name]
        if reference is None:  # transformers leaves the projector alone without media; ours gives it zeros
            assert mine is None or not mine.any(), name
            continue
        compared += 1
        torch.testing.assert_close(mine, reference, atol=1e-6, rtol=1e-4, msg=name)
    assert compared > 20


def test_a_text_batch_gives_the_projector_zero_gradients_not_none():
    loaded = tiny_model()
    LossHead(loaded.model, loaded.family)(batch(loaded, "text"))[0].backward()
    grads = [p.grad for n, p in loaded.model.named_parameters() if "multi_modal_projector" in n]
    assert len(grads) == 4
    assert all(g is not None and not g.any() for g in grads)


@pytest.mark.parametrize(
    "learns",
    [
        ("language_model", "lm_head", "projector"),
        ("projector", "video_tower"),
        ("image_tower", "video_tower", "projector", "language_model"),
        ("language_model",),
    ],
)
def test_gradients_get_ready_in_the_same_order_whatever_is_in_the_batch(learns):
    """ZeRO-2 reduces gradients as they get ready: ranks with other media must agree on the order."""
    loaded = tiny_model()
    ready: list[str] = []
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(any(part in name for part in learns))
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: ready.append(name))
    orders = {}
    for mix in MIXES:
        for counts in (True, False):
            ready.clear()
            LossHead(loaded.model, loaded.family)(batch(loaded, mix, counts=counts))[0].backward()
            orders[mix, counts] = list(ready)
    assert len(ready) > 3
    assert all(order == ready for order in orders.values()), [k for k, o in orders.items() if o != ready]


def test_frozen_towers_keep_no_graph():
    loaded = tiny_model()
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_("projector" in name)
    LossHead(loaded.model, loaded.family)(batch(loaded, "mixed"))[0].backward()
    with_grad = {n for n, p in loaded.model.named_parameters() if p.grad is not None}
    assert with_grad
    assert all("projector" in n for n in with_grad)


def test_a_stand_in_does_not_count(loaded):
    made = batch(loaded, "mixed", counts=False)
    assert made.learned == 0
    with torch.no_grad():
        total, each = LossHead(loaded.model, loaded.family)(made)
    assert float(total) == 0.0
    assert not each.any()


def test_the_loss_of_each_sample_adds_up(loaded):
    made = batch(loaded, "mixed")
    with torch.no_grad():
        total, each = LossHead(loaded.model, loaded.family)(made)
        alone = [LossHead(loaded.model, loaded.family)(batch(loaded, m))[0] for m in ("image",)]
    assert each.sum() == pytest.approx(float(total), rel=1e-6)
    assert each[0] == pytest.approx(float(alone[0]), rel=1e-5)


def test_features_and_places_must_agree(loaded):
    made = batch(loaded, "image")
    visual = {MediumKind.IMAGE: torch.zeros(2, 4, 128)}
    with pytest.raises(ValueError, match="placeholders"):
        embed(loaded.model, loaded.family, made.ids_BL, visual)
