"""Token ids and labels against traces of the reference's own training code."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from raypipe.records import MediumKind, Turn
from raypipe.text.chat import TAGS, TEMPLATES, ChatEncoder, ChatError, VisualTokens
from tests.support import reference_data

IMAGE = -200
VISUAL = {MediumKind.IMAGE: VisualTokens(IMAGE, 1), MediumKind.VIDEO: VisualTokens(IMAGE, 8)}


def _cases():
    traces = reference_data("golden") / "traces"
    encoder = ChatEncoder(
        Tokenizer.from_file(str(traces / "tokenizer_fast" / "tokenizer.json")), TEMPLATES["v1"], VISUAL
    )
    samples = json.loads((traces / "labels_v1.json").read_text())["samples"]
    return encoder, samples


def _turns_and_kinds(record):
    turns = [Turn(t["from"], t["value"]) for t in record["conversations"]]
    text = "".join(t.text for t in turns if t.role == "human")
    kinds, rest = [], text
    while True:
        places = sorted((rest.find(tag), kind) for tag, kind in TAGS.items() if tag in rest)
        if not places:
            return turns, kinds
        kinds.append(places[0][1])
        rest = rest[places[0][0] + 7 :]


def test_ids_and_labels_equal_the_reference():
    encoder, samples = _cases()
    checked, rejected, differing = 0, [], []
    # More than 16 images: the reference drops some at random, raypipe keeps what the record says.
    samples = [s for s in samples if s["name"] != "img17"]
    for sample in samples:
        if sample["error"] or sample["mismatch_fired"] or not sample["has_image"]:
            continue
        turns, kinds = _turns_and_kinds(sample["record"])
        try:
            ours = encoder.training(turns, kinds)
        except ChatError as fault:
            rejected.append((sample["name"], fault.detail))
            continue
        checked += 1
        if list(ours.ids) != sample["input_ids"] or list(ours.labels) != sample["labels"]:
            differing.append(sample["name"])
    assert not differing
    assert rejected == [("ans_has_video_tag", "an answer holds a media tag")]
    assert checked == 26


@pytest.mark.parametrize("name", ["v1", "llava_v1"])
def test_template_equals_the_reference(name):
    traces = reference_data("golden") / "traces"
    theirs = json.loads((traces / "templates.json").read_text())[name]
    ours = TEMPLATES[name]
    assert ours.system == theirs["system"]
    spelled = f"{ours.system} USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:"
    assert spelled == theirs["prompt_open"]
