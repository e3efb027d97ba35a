"""From shards to batches: the right frames with the right samples, every sample counted once."""

import numpy as np
import pytest
import torch

from raypipe.errors import DamageError, RequestError
from raypipe.model.pixels import normalised
from raypipe.records import MediumKind
from raypipe.settings import StageSettings
from raypipe.train.collate import collate
from raypipe.train.examples import Examples
from raypipe.train.loader import Ahead
from raypipe.train.loop import Worker, work_of
from raypipe.train.mixture import Mixture
from raypipe.train.order import Order
from tests.support.clips import number_of
from tests.support.prepared import drawn_run
from tests.support.tiny import tiny_model

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return drawn_run(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def mixture(run):
    return Mixture([str(run), str(run)])


@pytest.fixture(scope="module")
def loaded():
    return tiny_model()


def examples(mixture, loaded, **more) -> Examples:
    base = {"name": "s", "out": "o", "start": {"random": "tiny"}, "mixture": [{"data": "d"}]}
    settings = StageSettings.model_validate({**base, "image_aspect": "square", "max_tokens": 1024, **more})
    return Examples(mixture, loaded, settings)


def test_samples_are_numbered_through_all_parts(mixture):
    assert len(mixture) == 16
    assert [mixture.sample(n).id for n in range(8)] == [mixture.sample(n).id for n in range(8, 16)]
    assert mixture.texts(0)[1] == "A bar moves."
    assert [n > 0 for n in mixture.lengths()] == ([True] * 7 + [False]) * 2


def test_each_sample_comes_with_its_own_media(mixture):
    """The numbers that can be read from the stored frames are those of the annotation."""
    shown = [[[number_of(f) for f in row["frames"]] for row in mixture.media(n)] for n in range(8)]
    nine = [0, 1, 2, 3, 4, 5, 6, 8]
    assert shown == [
        [nine],
        [nine],
        [[0, 1, 2, 3, 5, 6, 7, 9]],
        [nine],
        [[0]],
        [[1], [2]],
        [[0, 1, 2, 4, 5, 7, 8, 10], [0]],
        [],
    ]


def test_pixels_stand_in_the_order_of_the_tags(mixture, loaded):
    made = examples(mixture, loaded)[6]
    assert [(kind, frames.shape) for kind, frames in made.pixels] == [
        (VIDEO, (8, 28, 28, 3)),
        (IMAGE, (1, 28, 28, 3)),
    ]
    places = loaded.chat().visual
    ids = [i for i in made.encoded.ids if i in {v.token_id for v in places.values()}]
    assert ids == [places[VIDEO].token_id] * 40 + [places[IMAGE].token_id] * 4


def test_collation_pads_on_the_right_and_joins_media_in_order(mixture, loaded):
    made = [examples(mixture, loaded)[n] for n in (6, 7, 4)]
    batch = collate([(one,) for one in made], torch.float32)
    for row, one in enumerate(made):
        length = len(one.encoded.ids)
        assert batch.ids_BL[row, :length].tolist() == list(one.encoded.ids)
        assert batch.mask_BL[row].tolist() == [1] * length + [0] * (batch.ids_BL.shape[1] - length)
        assert batch.labels_BL[row, :length].tolist() == list(one.encoded.labels)
        assert (batch.labels_BL[row, length:] == -100).all()
    images = np.concatenate([made[0].pixels[1][1], made[2].pixels[0][1]])
    assert torch.equal(batch.pixels[IMAGE], normalised(images, torch.float32))
    assert batch.pixels[VIDEO].shape == (8, 3, 28, 28)


def test_too_long_is_cut_on_the_right_and_counted(mixture, loaded):
    whole = examples(mixture, loaded)[1].encoded
    some = examples(mixture, loaded, max_tokens=len(whole.ids) - 3)
    assert some[1].encoded.ids == whole.ids[:-3]
    assert some[1].encoded.labels == whole.labels[:-3]
    assert some[1].cut
    assert not examples(mixture, loaded)[1].cut
    with pytest.raises(RequestError, match="max_tokens"):
        examples(mixture, loaded, max_tokens=40)[1]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [12, 7, 1])
def test_every_label_of_a_batch_counts_once_over_all_ranks(mixture, loaded, world, count):
    made = examples(mixture, loaded)
    batch = Order(16, 12, 3).batch(0)[:count]
    works = [
        work_of(made, batch, Worker(rank, world, torch.device("cpu")), 2, torch.float32)
        for rank in range(world)
    ]
    assert len({len(w.batches) for w in works}) == 1  # every rank takes part in every reduction
    expected = sum(made[i].encoded.learned for i in batch)
    assert sum(b.learned for w in works for b in w.batches) == expected


def test_a_medium_that_is_not_there_is_damage(mixture):
    with pytest.raises(DamageError, match="index"):
        mixture.parts[0].medium("no such key")


def test_batches_are_made_ahead_in_order_and_faults_come_through():
    def make(step: int) -> int:
        if step == 5:
            raise DamageError("no such shard")
        return step

    ahead = Ahead(make, 2, 9)
    assert [ahead.take() for _ in range(3)] == [2, 3, 4]
    with pytest.raises(DamageError):
        ahead.take()
    ahead.close()


def test_a_model_of_eight_frames_takes_no_other_number(mixture):
    eight, four = tiny_model(), tiny_model()
    four.model.config.video_seq_length = 20
    assert examples(mixture, eight)[0].pixels
    assert examples(mixture, four)[4].pixels  # an image
    with pytest.raises(RequestError, match="8 frames for a model that takes 4"):
        examples(mixture, four)[0]
