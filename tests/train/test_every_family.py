"""Each family learns through the same code: from shards to batches, loss, steps, export and back."""

import pytest
import torch

from raypipe.model.build import load_model, save_model
from raypipe.model.families import FAMILIES
from raypipe.model.splice import LossHead
from raypipe.settings import StageSettings
from raypipe.train.examples import Examples
from raypipe.train.mixture import Mixture
from raypipe.train.start import build_model
from raypipe.train.work import Worker, work_of
from tests.support.prepared import drawn_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return str(drawn_run(tmp_path_factory.mktemp("families")))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packing", [False, True])
def test_a_family_learns_and_comes_back(family, packing, run, tmp_path):
    values = {
        "name": "s",
        "out": "unused",
        "start": {"random": "tiny", "family": family},
        "mixture": [{"data": run}],
        "rates": {"language_model": 1e-3, "multi_modal_projector": 1e-3},
        "precision": "fp32",
        "max_tokens": 1024,
        "packing": packing,
    }
    settings = StageSettings.model_validate(values)
    mixture = Mixture([run])
    loaded = build_model(settings, mixture)
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(loaded.family.part_of(name) in settings.rates)
    head = LossHead(loaded.model, loaded.family)
    alone = Worker(0, 1, torch.device("cpu"))
    work = work_of(Examples(mixture, loaded, settings), range(len(mixture)), alone, 4, torch.float32)
    assert work.dropped == 0
    optimizer = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        total = sum(head(batch)[0] for batch in work.batches) / sum(b.learned for b in work.batches)
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < losses[0] - 0.3
    head.restore()
    save_model(loaded, loaded.card, tmp_path)
    again = load_model(str(tmp_path))
    assert again.family.name == family
    with torch.no_grad():
        mine, theirs = (LossHead(m, again.family)(work.batches[0])[0] for m in (loaded.model, again.model))
    assert float(theirs) == pytest.approx(float(mine), rel=1e-5)
