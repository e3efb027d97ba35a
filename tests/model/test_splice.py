"""Our forward against transformers' own, and the loss head against full logits."""

import pytest
import torch
from torch.nn import functional

from raypipe.model.lora import add_lora
from raypipe.model.splice import LossHead, embed, features
from raypipe.records import MediumKind
from raypipe.settings import Lora
from raypipe.train.collate import collate
from tests.model.batches import MIXES, batch, example, theirs
from tests.support.tiny import tiny_model

FAMILIES = ["video_llava_hf", "llava_onevision"]


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request):
    return tiny_model(family=request.param)


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
        model = tiny_model(family=loaded.family.name).model
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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_batch_gives_what_connects_zero_gradients_not_none(family):
    loaded = tiny_model(family=family)
    LossHead(loaded.model, loaded.family)(batch(loaded, "text"))[0].backward()
    parts = ("multi_modal_projector", "image_newline")
    grads = [p.grad for n, p in loaded.model.named_parameters() if any(part in n for part in parts)]
    assert len(grads) == (5 if family == "llava_onevision" else 4)
    assert all(g is not None and not g.any() for g in grads)


@pytest.mark.parametrize(
    ("family", "learns"),
    [
        ("video_llava_hf", ("language_model", "lm_head", "projector")),
        ("video_llava_hf", ("projector", "video_tower")),
        ("video_llava_hf", ("image_tower", "video_tower", "projector", "language_model")),
        ("video_llava_hf", ("language_model",)),
        ("llava_onevision", ("projector", "image_newline")),
        ("llava_onevision", ("language_model", "lm_head", "projector", "image_newline", "vision_tower")),
    ],
)
def test_gradients_get_ready_in_the_same_order_whatever_is_in_the_batch(family, learns):
    """ZeRO-2 reduces gradients as they get ready: ranks with other media must agree on the order."""
    loaded = tiny_model(family=family)
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


def only(loaded, *parts: str) -> None:
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_towers_keep_no_graph(family):
    loaded = tiny_model(family=family)
    only(loaded, "projector")
    head = LossHead(loaded.model, loaded.family)
    head(batch(loaded, "mixed"))[0].backward()
    head.restore()
    with_grad = {n for n, p in loaded.model.named_parameters() if p.grad is not None}
    assert with_grad
    assert all("projector" in n for n in with_grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_towers_are_out_of_the_tree_until_they_are_restored(family):
    loaded = tiny_model(family=family)
    only(loaded, "projector", "image_tower")
    before = list(loaded.model.state_dict())
    frozen = "video_tower" if family == "video_llava_hf" else "vision_tower"
    head = LossHead(loaded.model, loaded.family)
    names = [n for n, _ in head.named_parameters()]
    assert not any(frozen in n for n in names)
    assert any("image_tower" in n for n in names) == (family == "video_llava_hf")
    tower = loaded.model.get_submodule(f"model.{frozen}")
    head.to(torch.bfloat16)  # goes with the head, as DeepSpeed asks it to
    assert {p.dtype for p in tower.parameters()} == {torch.bfloat16}
    made = batch(loaded, "mixed", dtype=torch.bfloat16)
    assert torch.isfinite(head(made)[0])
    again = LossHead(loaded.model, loaded.family)  # another head over the same model finds the tower too
    assert torch.equal(again(made)[0], head(made)[0])
    again.restore()
    assert not any(frozen in n for n in loaded.model.state_dict())  # the first one holds it
    head.restore()
    assert list(loaded.model.state_dict()) == before
    head.restore()


def packs(loaded, dtype: torch.dtype):
    """The same four samples: one a row, packed by twos and threes with padding, and all in one row."""
    examples = [example(loaded, kinds, number) for number, kinds in enumerate(MIXES["mixed"])]
    order = [0, 1, 2, 3]
    ways = ([[n] for n in order], [[0, 1], [2], [3]], [[0], [1, 2, 3]], [order])
    return [collate([tuple(examples[n] for n in row) for row in rows], dtype) for rows in ways]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packing_changes_neither_losses_nor_gradients(family, attention):
    results = []
    for way in range(4):
        loaded = tiny_model(family=family)
        loaded.model.double()
        loaded.model.set_attn_implementation(attention)
        made = packs(loaded, torch.float64)[way]
        assert made.packed == (way > 0)
        total, each = LossHead(loaded.model, loaded.family)(made)
        (total / made.learned).backward()
        results.append((made, each, {n: p.grad for n, p in loaded.model.named_parameters()}))
    alone, losses, grads = results[0]
    assert min(losses) > 1
    for made, each, mine in results[1:]:
        assert made.learned == alone.learned
        torch.testing.assert_close(each, losses, atol=1e-5, rtol=0)
        for name, grad in grads.items():
            if grad is not None:
                torch.testing.assert_close(mine[name], grad, atol=1e-6, rtol=0, msg=name)
    # The comparison bites: rows whose samples see each other have other losses.
    joined = results[3][0]
    joined.segments_BL = (joined.segments_BL > 0).long()
    joined.samples = (("all",),)
    with torch.no_grad():
        total, _ = LossHead(loaded.model, loaded.family)(joined)
    assert abs(float(total) - float(losses.sum())) > 0.01


@pytest.mark.parametrize("mix", ["text", "mixed"])
@pytest.mark.parametrize("learns", [("lora_",), ("lora_", "projector"), ("projector",)])
def test_checkpointing_gives_the_same_gradients_with_frozen_embeddings(learns, mix):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(5)
        loaded = add_lora(tiny_model(), Lora(r=4, alpha=8, dropout=0.0), [], "base")
        only(loaded, *learns)
        with torch.no_grad():
            for name, parameter in loaded.model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
        loaded.model.train()
        if checkpointing:
            loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        made = batch(loaded, mix)
        LossHead(loaded.model, loaded.family)(made)[0].backward()
        grads.append({n: p.grad for n, p in loaded.model.named_parameters() if p.requires_grad})
    assert grads[0]
    moved = [g is not None and bool(g.any()) for g in grads[0].values()]
    assert any(moved) == (learns != ("projector",) or mix != "text")
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5, msg=name)


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
