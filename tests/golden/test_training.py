"""Two stages of a tiny model, micro-batch by micro-batch, against the reference's own trainer.

Its towers are the trace's fixed functions; tokens, labels, splicing, projector and loss are raypipe's.
"""

from __future__ import annotations

import importlib.util
import json
import re
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaModel

from raypipe.model.family import Family, project
from raypipe.model.splice import Batch, LossHead
from raypipe.records import MediumKind
from raypipe.text.chat import IGNORE, TEMPLATES, ChatEncoder, Encoded, VisualTokens
from raypipe.train.collate import collate
from raypipe.train.examples import Example
from tests.golden.test_labels import _turns_and_kinds
from tests.support import reference_data

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO
VISUAL = {IMAGE: VisualTokens(1000, 256), VIDEO: VisualTokens(1001, 8 * 257)}
WIDTH, SIDE, FRAMES, LONGEST = 32, 224, 8, 3072
NAMES = {"model.mm_projector.": "model.multi_modal_projector.", "model.": "model.language_model."}


class Tower(nn.Module):
    """A fixed function of pixels; without parameters, so it is frozen."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.function(pixels)


class Tiny(nn.Module):
    """The traces' LlavaLlama with the names of its parts as raypipe's families have them."""

    def __init__(self, config: LlamaConfig, stub: ModuleType, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.config = config
        wide = config.hidden_size
        self.model = nn.Module()
        self.model.language_model = LlamaModel(config)
        self.model.multi_modal_projector = nn.Sequential(
            nn.Linear(WIDTH, wide), nn.GELU(), nn.Linear(wide, wide)
        )
        self.model.image_tower = Tower(lambda pixels: stub.image_features(pixels, weights))
        self.model.video_tower = Tower(lambda pixels: stub.video_features(pixels, weights))
        self.lm_head = nn.Linear(wide, config.vocab_size, bias=False)

    def get_input_embeddings(self):
        # The two placeholders lie behind the vocabulary, which has no words for them.
        words = self.model.language_model.embed_tokens
        return lambda ids: words(ids.clamp(max=words.num_embeddings - 1))


def _see(tower, pixels, kind, config):
    if kind is IMAGE:
        return tower(pixels)
    return tower(pixels.unflatten(0, (-1, FRAMES)).transpose(1, 2)).flatten(0, 1)


STUBBED = Family(
    name="stubbed",
    model_type="stubbed",
    cls=Tiny,
    parts={"language_model": ("model.language_model.", "lm_head."), "projector": ("model.multi_modal",)},
    towers={IMAGE: "model.image_tower", VIDEO: "model.video_tower"},
    see=_see,
    connect=lambda model, hidden: project(model.model.multi_modal_projector, hidden, WIDTH),
    visual=lambda config: VISUAL,
    frames=lambda config: FRAMES,
    random=lambda size, vocabulary: None,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    side=lambda config: SIDE,
)


@pytest.fixture(scope="module")
def traces():
    folder = reference_data("golden") / "traces"
    spec = importlib.util.spec_from_file_location("reference_stub", folder / "e2e" / "stub.py")
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer_fast" / "tokenizer.json"))
    return SimpleNamespace(
        folder=folder / "e2e",
        stub=stub,
        facts=json.loads((folder / "e2e" / "trace.json").read_text()),
        chat=ChatEncoder(tokenizer, TEMPLATES["v1"], VISUAL),
    )


def our_name(theirs: str) -> str:
    for start, ours in NAMES.items():
        if theirs.startswith(start):
            return ours + theirs.removeprefix(start)
    return theirs


def start(traces, *projector: str) -> Tiny:
    config = LlamaConfig(**traces.facts["config"])
    model = Tiny(config, traces.stub, load_file(traces.folder / "towers.safetensors"))
    for file in ("init.safetensors", *projector):
        weights = load_file(traces.folder / file)
        state = {our_name(k): v for k, v in weights.items() if "rotary_emb" not in k}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        assert file != "init.safetensors" or not missing
    return model


def batch_of(traces, records: list[dict], numbers: list[int]) -> Batch:
    rows, pixels = [], {kind: [] for kind in MediumKind}
    for number in numbers:
        turns, kinds = _turns_and_kinds(records[number])
        encoded = traces.chat.training(turns, kinds)
        labels = encoded.labels[:LONGEST]
        if "ASSISTANT:" in turns[1].text:  # the reference throws its labels away; raypipe would train it
            labels = (IGNORE,) * len(labels)
        rows.append((Example(number, str(number), Encoded(encoded.ids[:LONGEST], labels), ()),))
        for kind in MediumKind:
            paths = records[number].get(kind.value, [])
            for path in [paths] if isinstance(paths, str) else paths:
                k = int(re.search(r"\d+", path)[0])
                shown = traces.stub.image_pixels(k)[None] if kind is IMAGE else traces.stub.video_pixels(k)
                pixels[kind].append(shown if kind is IMAGE else shown.transpose(0, 1))
    made = collate(rows, torch.float32)
    made.pixels = {kind: torch.cat(frames) for kind, frames in pixels.items() if frames}
    return made


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_losses_and_final_weights_equal_the_reference(traces, stage):
    (trace,) = (run for run in traces.facts["runs"] if run["run"] == stage)
    records = json.loads((traces.folder / f"{stage}.json").read_text())
    model = start(traces, *(["stage1_final_projector.safetensors"] if stage == "stage2" else []))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(stage == "stage2" or "projector" in name)
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learns, weight_decay=0.0)
    head, differences = LossHead(model, STUBBED), []
    for micro, numbers in enumerate(trace["micro_batches"]):
        made = batch_of(traces, records, numbers)
        total, _ = head(made)
        loss = total / made.learned
        loss.backward()
        differences.append(abs(float(loss.detach()) - trace["micro_loss"][micro]))
        norm = torch.nn.utils.get_total_norm([p.grad for p in learns])
        assert float(norm) == pytest.approx(trace["grad_norm_after_micro"][micro], rel=1e-3)
        (optimizer.param_groups[0]["lr"],) = set(trace["lr_used"][micro])
        optimizer.step()
        optimizer.zero_grad()
    assert max(differences) < 1e-5, differences
    state = model.state_dict()
    for name, norm in trace["final_l2"].items():
        if "rotary_emb" not in name:
            assert float(state[our_name(name)].norm()) == pytest.approx(norm, rel=1e-5), name
    final = "stage1_final_projector" if stage == "stage1" else "stage2_final"
    for name, theirs in load_file(traces.folder / f"{final}.safetensors").items():
        if "rotary_emb" not in name:
            torch.testing.assert_close(state[our_name(name)], theirs, atol=1e-4, rtol=0, msg=name)
    assert len(differences) == 20
