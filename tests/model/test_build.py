"""Models on disk: what is saved is what is loaded, by us and by transformers; adapters merged and not."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, VideoLlavaForConditionalGeneration

from raypipe.errors import RequestError
from raypipe.model.build import Card, folder_of, load_model, random_model, save_model
from raypipe.model.describe import weights_fingerprint
from raypipe.model.lora import add_lora, merge
from raypipe.model.splice import whole
from raypipe.settings import Lora, Rendition, Sampling
from tests.model.batches import batch, theirs
from tests.support.tiny import tiny_model, tiny_tokenizer

LORA = Lora(r=4, alpha=8, dropout=0.0)


def logits(loaded) -> torch.Tensor:
    """In double precision, so that what differs is the weights and not the order of sums."""
    loaded.model.eval().double()
    with torch.no_grad():
        return theirs(whole(loaded.model), batch(loaded, "mixed", dtype=torch.float64)).logits


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    """An adapter with weights that matter, and a projector trained in full beside it."""
    loaded = add_lora(load_model(str(tiny_folder)), LORA, ["multi_modal_projector"], str(tiny_folder))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    out = tmp_path_factory.mktemp("adapter")
    save_model(loaded, loaded.card, out)
    return out, logits(loaded)


def test_the_same_seed_gives_the_same_weights():
    made = [random_model("tiny", tiny_tokenizer(), seed).model.state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])
    assert any(not torch.equal(made[0][k], made[2][k]) for k in made[0])


def test_random_weights_leave_the_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    random_model("tiny", tiny_tokenizer(), 5)
    assert torch.equal(torch.rand(1), expected)


def test_saved_and_loaded_are_equal(tmp_path):
    loaded = tiny_model()
    card = Card("llava_v1", "square", Sampling(frames=4), Rendition(short_side=99), ({"run": "r"},))
    save_model(loaded, card, tmp_path)
    again = load_model(str(tmp_path))
    assert again.card == card
    texts = ["A bar moves.", " ü </s> <s>\n", "漢字"]
    ids = [[x.tokenizer.encode(t, add_special_tokens=False).ids for t in texts] for x in (loaded, again)]
    assert ids[0] == ids[1]
    mine, kept = loaded.model.state_dict(), again.model.state_dict()
    assert mine.keys() == kept.keys()
    assert all(torch.equal(mine[k], kept[k]) for k in mine)
    torch.testing.assert_close(logits(again), logits(loaded))
    assert again.family.frames(again.config) == 8
    assert again.side == 28


def test_transformers_loads_the_export(tiny_folder):
    model = VideoLlavaForConditionalGeneration.from_pretrained(tiny_folder).eval()
    ours = load_model(str(tiny_folder))
    with torch.no_grad():
        made = batch(ours, "mixed", dtype=torch.float64)
        torch.testing.assert_close(theirs(model.double(), made).logits, logits(ours))
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    ids = ours.tokenizer.encode("A bar.", add_special_tokens=False).ids
    assert tokenizer.encode("A bar.", add_special_tokens=False) == ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_an_adapter_over_its_base_is_what_was_trained(adapter, tiny_folder):
    folder, trained = adapter
    assert (logits(load_model(str(tiny_folder))) - trained).abs().max() > 1e-2  # the adapter does something
    again = load_model(str(folder), str(tiny_folder))
    torch.testing.assert_close(logits(again), trained)


def test_a_merged_adapter_is_a_whole_model(adapter, tiny_folder, tmp_path):
    folder, trained = adapter
    out = merge(str(folder), str(tiny_folder), str(tmp_path / "merged"))
    merged = load_model(str(out))
    torch.testing.assert_close(logits(merged), trained, atol=1e-5, rtol=1e-5)
    plain = VideoLlavaForConditionalGeneration.from_pretrained(out).eval()
    with torch.no_grad():
        made = batch(merged, "mixed", dtype=torch.float64)
        torch.testing.assert_close(theirs(plain.double(), made).logits, logits(merged))


def test_an_adapter_needs_its_base_and_a_model_has_none(adapter, tiny_folder):
    with pytest.raises(RequestError, match="LoRA adapter") as fault:
        load_model(str(adapter[0]))
    assert "model_base" in fault.value.remedy
    with pytest.raises(RequestError, match="not an adapter"):
        load_model(str(tiny_folder), str(tiny_folder))
    with pytest.raises(RequestError, match="not an adapter"):
        merge(str(tiny_folder), str(tiny_folder), "unused")


def test_targets_that_match_nothing_are_refused(tiny_folder):
    with pytest.raises(RequestError, match=r"lora\.targets"):
        add_lora(load_model(str(tiny_folder)), Lora(targets=".*nothing.*"), [], "b")


def test_what_is_no_model(tmp_path, tiny_folder):
    for path, said in ((tmp_path / "no", "no such model"), (tmp_path, "holds neither")):
        with pytest.raises(RequestError, match=said):
            folder_of(str(path))
    half = tmp_path / "half"
    shutil.copytree(tiny_folder, half)
    (half / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match=r"tokenizer\.json"):
        load_model(str(half))
    (half / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RequestError, match="no model family"):
        load_model(str(half))
    for kind, said in (("llama", "a language model alone"), ("clip_vision_model", "a vision tower alone")):
        (half / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(RequestError, match=said) as fault:
            load_model(str(half))
        assert "start.parts" in fault.value.remedy
    (half / "config.json").write_text("{")
    with pytest.raises(RequestError, match=r"config\.json"):
        load_model(str(half))


def test_weights_that_are_cut_short_are_refused(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(RequestError, match="m"):
        load_model(str(tmp_path / "m"))


def test_an_export_with_keys_amiss_is_refused(tmp_path, tiny_folder):
    """transformers would fill in random weights, with a line in the log."""
    shutil.copytree(tiny_folder, tmp_path / "m")
    known = load_file(tmp_path / "m/model.safetensors")
    for tensors, said in (
        (
            {k: t for k, t in known.items() if not k.endswith("linear_1.bias")},
            r"lacks weights: 1, such as model.multi_modal_projector.linear_1.bias",
        ),
        ({**known, "model.more": torch.zeros(2)}, r"without a place in the model: 1, such as model\.more"),
    ):
        save_file(tensors, tmp_path / "m/model.safetensors", {"format": "pt"})
        with pytest.raises(RequestError, match=said):
            load_model(str(tmp_path / "m"))
    buffer = {**known, "model.image_tower.embeddings.position_ids": torch.arange(5.0)}
    save_file(buffer, tmp_path / "m/model.safetensors", {"format": "pt"})
    load_model(str(tmp_path / "m"))


def test_a_model_is_named_by_its_content(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "copy")
    name = weights_fingerprint(str(tmp_path / "copy"), None)
    assert name == weights_fingerprint(str(tiny_folder), None)
    assert name != weights_fingerprint(str(tiny_folder), str(tiny_folder))
    card = Card.read(tmp_path / "copy")
    (tmp_path / "copy/raypipe.json").write_text(dataclasses.replace(card, image_aspect="square").dump())
    assert name != weights_fingerprint(str(tmp_path / "copy"), None)
