"""Original checkpoints that are damaged, hostile, of another architecture, or not where they were put."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from raypipe.errors import RequestError
from raypipe.model.build import from_parts, load_model, with_projector
from tests.model.answers import close, logits, naive_logits, parts_of, with_lora


def change(folder: Path, edit) -> None:
    """Rewrites the weights of a folder as one file."""
    found: dict = {}
    for file in sorted(folder.glob("pytorch_model*.bin")):
        found |= torch.load(file, weights_only=True)
        file.unlink()
    (folder / "pytorch_model.bin.index.json").unlink(missing_ok=True)
    edit(found)
    torch.save(found, folder / "pytorch_model.bin")


EMBEDDING = "model.video_tower.video_tower.encoder.layers.1.temporal_embedding"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.pop(EMBEDDING), r"1 weights of the model are missing .*layers\.1\.temporal_embedding"),
        (lambda w: w.pop("lm_head.weight"), r"missing \(lm_head\.weight\)"),
        (lambda w: w.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(2)}), r"1 keys have no place"),
        (lambda w: w.update({"model.vision_tower.x": torch.zeros(2)}), r"no place.*model\.vision_tower\.x"),
        (
            lambda w: w.update({"lm_head.weight": torch.zeros(3, 48)}),
            r"another shape: lm_head\.weight is \[3",
        ),
        (lambda w: w.update({"model.norm.weight": torch.zeros(48).int()}), r"norm\.weight is of type"),
        (
            lambda w: [w.pop(k) for k in list(w) if "tower" in k],
            r"weights of the model are missing \(model\.image_tower",
        ),
    ],
)
def test_keys_unused_missing_or_misshaped_are_named(copied, edit, said):
    change(copied, edit)
    with pytest.raises(RequestError, match=said):
        load_model(str(copied))


def test_a_video_tower_without_its_temporal_weights_is_refused(originals, tmp_path):
    """The published -hf conversion dropped them without a word."""
    video = Path(shutil.copytree(originals.video, tmp_path / "video"))
    change(video, lambda w: [w.pop(k) for k in list(w) if "temporal" in k])
    with pytest.raises(RequestError, match=r"missing \(model\.video_tower\.encoder.*temporal"):
        from_parts(parts_of(originals, video_tower=str(video)), 0)


def test_a_temporal_tower_is_no_image_tower(originals):
    with pytest.raises(RequestError, match=r"no place in the model.*temporal_attn"):
        from_parts(parts_of(originals, image_tower=originals.video), 0)


def test_towers_that_do_not_go_together_are_refused(originals, tmp_path):
    image = Path(shutil.copytree(originals.image, tmp_path / "image"))
    body = json.loads((image / "config.json").read_text())
    body["vision_config"]["image_size"] = 56
    (image / "config.json").write_text(json.dumps(body))
    with pytest.raises(RequestError, match="differ in image_size: 56 and 28"):
        from_parts(parts_of(originals, image_tower=str(image)), 0)


def test_parts_in_the_wrong_places_are_refused(originals, tmp_path):
    with pytest.raises(RequestError, match="holds a vision tower alone, not a language model"):
        from_parts(parts_of(originals, language_model=originals.image), 0)
    with pytest.raises(RequestError, match="holds a language model alone, not a vision tower"):
        from_parts(parts_of(originals, video_tower=originals.llm), 0)
    with pytest.raises(
        RequestError, match=r"weights of the model are missing \(model\.multi_modal_projector"
    ):
        from_parts(parts_of(originals, projector=originals.llm), 0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="no projector in"):
        from_parts(parts_of(originals, projector=str(tmp_path)), 0)


def test_a_projector_file_with_other_keys_is_refused(originals, tmp_path):
    file = tmp_path / "mm_projector.bin"
    known = torch.load(f"{originals.stage1}/mm_projector.bin", weights_only=True)
    torch.save({**known, "model.embed_tokens.weight": torch.zeros(2, 48)}, file)
    with pytest.raises(RequestError, match=r"no place.*model\.embed_tokens\.weight"):
        with_projector(load_model(originals.whole), str(file))
    known.pop("model.mm_projector.2.bias")
    torch.save(known, file)
    with pytest.raises(RequestError, match=r"missing \(model\.multi_modal_projector\.linear_2\.bias\)"):
        with_projector(load_model(originals.whole), str(file))


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"])
@pytest.mark.parametrize("kept", [0, 1000, -1000])
def test_files_cut_short_are_refused_by_name(copied, name, kept):
    file = copied / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(RequestError, match=name):
        load_model(str(copied))


def test_a_missing_shard_is_named(copied):
    (copied / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(RequestError, match=r"1 of 2 files.*00002-of-00002\.bin"):
        load_model(str(copied))


def test_an_index_that_leads_out_of_the_folder_is_refused(copied):
    index = {"weight_map": {"lm_head.weight": "../whole/pytorch_model-00001-of-00002.bin"}}
    (copied / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="not an index of weights"):
        load_model(str(copied))


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.write_text, (self.mark, "ran"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(originals, tmp_path, zipped):
    mark, file = tmp_path / "mark", tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": Hostile(mark)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(RequestError, match=r"mm_projector\.bin cannot be read as weights"):
        with_projector(load_model(originals.whole), str(file))
    file.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(RequestError, match=r"mm_projector\.bin cannot be read as weights"):
        with_projector(load_model(originals.whole), str(file))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Hostile(mark)))  # noqa: S301 - the one that would have run
    assert mark.read_text() == "ran"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mm_projector_type", "linear"),
        ("mm_use_im_start_end", True),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_video_tower", "someone/else"),
        ("image_aspect_ratio", "anyres"),
        ("vocab_size", None),
    ],
)
def test_what_the_reference_can_and_this_cannot_is_refused(copied, name, value):
    body = json.loads((copied / "config.json").read_text())
    body[name] = value
    if value is None:
        del body[name]
    (copied / "config.json").write_text(json.dumps(body))
    with pytest.raises(RequestError) as fault:
        load_model(str(copied))
    assert name in f"{fault.value.message} {fault.value.remedy}"


def test_languagebinds_own_names_stand_for_their_shapes(copied):
    """Without the towers' folders: the tiny weights then do not fit, and the complaint says by how much."""
    body = json.loads((copied / "config.json").read_text())
    body |= {"mm_image_tower": "LanguageBind/LanguageBind_Image"}
    body |= {"mm_video_tower": "LanguageBind/LanguageBind_Video_merge"}
    (copied / "config.json").write_text(json.dumps(body))
    with pytest.raises(RequestError, match=r"is \[.*\] and not \[.*1024"):
        load_model(str(copied))


@pytest.mark.parametrize("name", ["adapter_model.bin", "non_lora_trainables.bin"])
def test_a_lora_result_with_keys_amiss_is_refused(originals, tmp_path, name):
    folder = Path(shutil.copytree(originals.lora, tmp_path / "lora"))
    known = torch.load(folder / name, weights_only=True)
    gone = next(iter(known))
    torch.save({k: t for k, t in known.items() if k != gone}, folder / name)
    with pytest.raises(RequestError, match=r"1 weights are missing"):
        load_model(str(folder), originals.whole)
    torch.save({**known, "base_model.model.model.embed_tokens.weight": torch.zeros(2)}, folder / name)
    with pytest.raises(RequestError, match=r"1 keys have no place.*embed_tokens"):
        load_model(str(folder), originals.whole)
    torch.save({**known, gone: torch.zeros(3, 3)}, folder / name)
    with pytest.raises(RequestError, match=r"is \[3, 3\] and not"):
        load_model(str(folder), originals.whole)
    (folder / name).unlink()
    with pytest.raises(RequestError, match=name.split(".")[0]):
        load_model(str(folder), originals.whole)


def test_towers_that_are_not_here_are_named(originals, tmp_path):
    folder = Path(shutil.copytree(originals.lora, tmp_path / "lora"))
    body = json.loads((folder / "config.json").read_text())
    body["mm_video_tower"] = "LanguageBind/LanguageBind_Video_merge"
    (folder / "config.json").write_text(json.dumps(body))
    with pytest.raises(RequestError, match="LanguageBind_Video_merge, which are no folders here") as fault:
        load_model(str(folder), originals.llm)
    assert "model_base" in fault.value.remedy
    close(logits(load_model(str(folder), originals.whole)), naive_logits(with_lora(originals)))
