"""Where visual tokens, text and labels stand in a batch, against traces of the reference's own collation.

A trace writes a position as the text's id, or as a negative code of source, frame and row. Here the frames of
a batch carry their source and number as a colour, and the features made of them carry the code, so what is
compared went through collation and splicing as it does in training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from raypipe.model.pixels import CLIP_MEAN, CLIP_STD
from raypipe.model.splice import Batch, embed
from raypipe.model.video_llava_hf import VIDEO_LLAVA_HF
from raypipe.records import MediumKind, Turn
from raypipe.text.chat import IGNORE, TEMPLATES, ChatEncoder, ChatError, Encoded, VisualTokens, check_turns
from raypipe.train.collate import collate
from raypipe.train.examples import Example
from tests.golden.test_labels import _turns_and_kinds
from tests.support import reference_data

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO
VISUAL = {IMAGE: VisualTokens(1000, 256), VIDEO: VisualTokens(1001, 8 * 257)}
FAMILY = replace(VIDEO_LLAVA_HF, visual=lambda config: VISUAL)
SAME = [
    "mixed",
    "mixed_left",
    "vid_img_text_notag",
    "long",
    "cut_3072",
    "cut_none",
    "text_only",
    "unk_dropped",
]
CUT = {"long", "cut_3072"}
CODES = {kind: torch.arange(256 if kind is IMAGE else 257, dtype=torch.float64) for kind in MediumKind}


@dataclass
class Traces:
    encoder: ChatEncoder
    batches: dict[str, dict]
    records: dict[str, dict]
    arrays: dict[str, np.ndarray]

    def theirs(self, batch: str, place: int) -> tuple[list[int], list[int]]:
        mask = self.arrays[f"{batch}.attention_mask"][place].astype(bool)
        rows = [self.arrays[f"{batch}.{name}"][place][mask].tolist() for name in ("layout", "labels")]
        return rows[0], rows[1]


@pytest.fixture(scope="module")
def traces() -> Traces:
    folder = reference_data("golden") / "traces"
    body = json.loads((folder / "splice.json").read_text())
    samples = json.loads((folder / "labels_v1.json").read_text())["samples"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer_fast" / "tokenizer.json"))
    return Traces(
        ChatEncoder(tokenizer, TEMPLATES["v1"], VISUAL),
        {b["batch"]: b for b in body["batches"]},
        {**{s["name"]: s["record"] for s in samples}, **body["extra_records"]},
        dict(np.load(folder / "splice.npz")),
    )


def from_ids(
    ids: np.ndarray, labels: np.ndarray, shapes: list[list[int]]
) -> tuple[Encoded, list[MediumKind]]:
    """A member whose record is not in the traces, from its collated ids; <unk> goes the way of padding."""
    kept = ids != 0
    made, learned, kinds, left = [], [], [], 0
    for token, label in zip(ids[kept].tolist(), labels[kept].tolist(), strict=True):
        if token >= 0:
            made.append(token)
            learned.append(label)
            continue
        if left == 0:
            kind = VIDEO if len(shapes[len(kinds)]) == 4 else IMAGE
            kinds.append(kind)
            made += [VISUAL[kind].token_id] * VISUAL[kind].count
            learned += [IGNORE] * VISUAL[kind].count
            left = 8 if kind is VIDEO else 1
        left -= 1
    return Encoded(tuple(made), tuple(learned)), kinds


def coloured(source: int, kind: MediumKind) -> np.ndarray:
    """Frames [frames, 1, 1, 3] that say where they come from."""
    numbers = source * 8 + np.arange(8 if kind is VIDEO else 1)
    return np.broadcast_to(numbers[:, None, None, None], (len(numbers), 1, 1, 3)).astype(np.uint8)


def examples(traces: Traces, name: str) -> list[Example]:
    """The members of a batch; sources are numbered as the reference does: a text has one, too."""
    batch, source, made = traces.batches[name], 0, []
    for place, member in enumerate(batch["members"]):
        ids, labels = (traces.arrays[f"{name}.{key}"][place] for key in ("input_ids", "in_labels"))
        if member in traces.records:
            turns, kinds = _turns_and_kinds(traces.records[member])
            encoded = traces.encoder.training(turns, kinds)
        else:
            encoded, kinds = from_ids(ids, labels, batch["images"][source:])
        length = len(traces.theirs(name, place)[0])
        assert len(encoded.ids) == length or (name in CUT and len(encoded.ids) > length)
        encoded = Encoded(encoded.ids[:length], encoded.labels[:length])
        shown = sum(encoded.ids.count(v.token_id) // v.count for v in VISUAL.values())
        pixels = tuple((k, coloured(source + n, k)) for n, k in enumerate(kinds[:shown]))
        made.append(Example(place, member, encoded, pixels))
        source += max(1, len(kinds))
    return made


def layout(batch: Batch) -> torch.Tensor:
    """What stands at each position [batch, length], in the traces' code."""
    visual = {}
    for kind, pixels in batch.pixels.items():
        numbers = ((pixels[:, 0, 0, 0].double() * CLIP_STD[0] + CLIP_MEAN[0]) * 255).round()
        heads = torch.div(numbers, 8, rounding_mode="floor") * 10000 + numbers % 8 * 1000
        visual[kind] = -(1 + heads[:, None] + CODES[kind]).unsqueeze(-1)
    model = SimpleNamespace(config=None, get_input_embeddings=lambda: lambda ids: ids.double().unsqueeze(-1))
    return embed(model, FAMILY, batch.ids_BL, visual).squeeze(-1).long()


@pytest.mark.parametrize("name", SAME)
def test_layout_and_labels_of_each_sample_equal_the_reference(traces, name):
    made = examples(traces, name)
    batch = collate([(e,) for e in made], torch.float32)
    laid = layout(batch)
    for place in range(len(made)):
        mask = batch.mask_BL[place].bool()
        theirs, labels = traces.theirs(name, place)
        assert laid[place][mask].tolist() == theirs
        assert batch.labels_BL[place][mask].tolist() == labels
    assert any(min(traces.theirs(name, place)[0]) < 0 for place in range(len(made))) == (name != "text_only")


@pytest.mark.parametrize("name", ["mixed", "vid_img_text_notag"])
def test_packed_rows_hold_the_same_samples(traces, name):
    made = examples(traces, name)
    batch = collate([tuple(made[:3]), (made[3],)], torch.float32)
    laid = layout(batch)
    for place in range(len(made)):
        row, segment = (0, place + 1) if place < 3 else (1, 1)
        mask = batch.segments_BL[row] == segment
        theirs, labels = traces.theirs(name, place)
        assert laid[row][mask].tolist() == theirs
        assert batch.labels_BL[row][mask].tolist() == labels


def test_a_video_behind_an_image_stands_behind_it(traces):
    """The reference shows videos first, wherever their tags are; here a medium stands where its tag is."""
    made = examples(traces, "image_before_video")
    batch = collate([(e,) for e in made], torch.float32)
    laid = layout(batch)
    ours, (theirs, labels) = laid[0].tolist(), traces.theirs("image_before_video", 0)
    assert batch.labels_BL[0].tolist() == labels
    text = theirs.index(-1)
    video, image = theirs[text : text + 8 * 257], theirs[text + 8 * 257 : text + 8 * 257 + 256]
    source = [v - 10000 for v in ours[text : text + 256]], [v + 10000 for v in ours[text + 256 : text + 2312]]
    assert source == (image, video)
    assert ours[:text] == theirs[:text]
    assert ours[text + 2312 :] == theirs[text + 2312 :]
    mask = batch.mask_BL[1].bool()
    assert laid[1][mask].tolist() == traces.theirs("image_before_video", 1)[0]


@pytest.mark.parametrize("member", ["two_img_one_tag", "ans_has_video_tag"])
def test_records_whose_media_the_reference_shifts_are_refused(traces, member):
    """The batches silent_shift, overflow, leftover and video_answer_tag: features went to other samples."""
    record = traces.records[member]
    turns = [Turn(t["from"], t["value"]) for t in record["conversations"]]
    kinds = [VIDEO] if "video" in record else [IMAGE] * len(record["image"])
    with pytest.raises(ChatError):
        traces.encoder.training(turns, kinds)


def test_a_tag_too_many_or_too_few_is_refused():
    answer = [Turn("human", "<image>\nWhich tag?"), Turn("gpt", "It is <image> here.")]
    with pytest.raises(ChatError):
        check_turns(answer, [IMAGE])
    with pytest.raises(ChatError):
        check_turns([Turn("human", "No tag."), Turn("gpt", "No.")], [IMAGE])


def test_features_that_are_left_over_or_missing_are_an_error(traces):
    """What the reference does in silence, should a batch with such a shift ever be made."""
    first, second, *_ = examples(traces, "mixed")
    for pixels in (first.pixels * 2, ()):
        wrong = collate([(replace(first, pixels=pixels),), (second,)], torch.float32)
        with pytest.raises(ValueError, match="placeholders"):
            layout(wrong)
