"""The loss over samples held out, by its parts: which samples, weighed by tokens, an interval over media."""

import numpy as np
import pytest
import torch

from raypipe.errors import RequestError
from raypipe.model.splice import LossHead
from raypipe.settings import StageSettings
from raypipe.train.collate import collate
from raypipe.train.examples import Examples
from raypipe.train.mixture import Mixture
from raypipe.train.score import _by_medium, chosen_samples, held_loss
from tests.support.prepared import drawn_run
from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Mixture:
    return Mixture([str(drawn_run(tmp_path_factory.mktemp("held")))])


def stage(**more) -> StageSettings:
    values = {"name": "s", "out": "x", "start": {"random": "tiny"}, "mixture": [{"data": "d"}]}
    return StageSettings.model_validate({"max_tokens": 512, "precision": "fp32", **values, **more})


def test_the_loss_is_a_mean_over_tokens_whatever_the_batch(mixture):
    loaded, numbers = tiny_model(), list(range(len(mixture)))
    results = [held_loss(loaded, mixture, numbers, stage(micro_batch=m), "cpu") for m in (1, 3, 8)]
    examples, head = Examples(mixture, loaded, stage()), LossHead(loaded.model, loaded.family)
    sums, tokens = [], []
    for number in numbers:
        batch = collate([(examples[number],)], torch.float32)
        with torch.no_grad():
            sums.append(float(head(batch)[0]))
        tokens.append(batch.learned)
    mean = sum(sums) / sum(tokens)
    assert abs(mean - float(np.mean([s / t for s, t in zip(sums, tokens, strict=True)]))) > 1e-3
    for result in results:
        assert result["loss"] == pytest.approx(mean, abs=2e-6)
        assert (result["samples"], result["tokens"]) == (len(mixture), sum(tokens))
        assert result["low"] < result["loss"] < result["high"]


def test_each_kind_of_medium_has_its_own_loss(mixture):
    loaded = tiny_model()
    result = held_loss(loaded, mixture, range(len(mixture)), stage(), "cpu")
    kinds = [{str(k) for k in mixture.sample(n).kinds} or {"text"} for n in range(len(mixture))]
    assert set(result["kinds"]) == {"image", "video", "text"}
    for kind, mine in result["kinds"].items():
        numbers = [n for n, k in enumerate(kinds) if kind in k]
        alone = held_loss(loaded, mixture, numbers, stage(), "cpu")
        assert mine == {
            "loss": pytest.approx(alone["loss"]),
            "samples": len(numbers),
            "tokens": alone["tokens"],
        }


def test_one_medium_gives_no_interval(mixture):
    result = held_loss(tiny_model(), mixture, [7], stage(), "cpu")
    assert (result["clusters"], result["low"], result["high"]) == (1, None, None)


def test_samples_that_share_a_medium_are_one_cluster():
    each = np.array([[1.0, 1], [2, 1], [4, 1], [8, 1], [16, 1]])
    clusters = _by_medium(each, [("a",), ("b",), ("c", "b"), (), ()])
    assert sorted(clusters.tolist()) == [[1, 1], [6, 2], [8, 1], [16, 1]]


def test_a_limit_chooses_the_same_samples_every_time(mixture):
    held = list(range(8))
    four = chosen_samples(mixture, held, 4)
    assert len(set(four)) == 4
    assert four == sorted(four)
    assert chosen_samples(mixture, held[::-1], 4) == four
    assert set(chosen_samples(mixture, held, 3)) < set(four)
    assert chosen_samples(mixture, held, 8) == held
    with pytest.raises(RequestError, match="nothing is held out"):
        chosen_samples(mixture, [], 4)
