"""From shards to batches: the right frames with the right samples, every sample counted once."""

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import DamageError, RequestError
from raypipe.model.pixels import normalised
from raypipe.model.splice import LossHead
from raypipe.records import MediumKind
from raypipe.settings import StageSettings
from raypipe.text.chat import IGNORE
from raypipe.train.collate import collate, joined, packed, shares
from raypipe.train.examples import Examples
from raypipe.train.loader import Ahead, Steps
from raypipe.train.mixture import IMAGE as OF_IMAGES
from raypipe.train.mixture import TEXT, Mixture
from raypipe.train.mixture import VIDEO as OF_VIDEO
from raypipe.train.order import order_of
from raypipe.train.plan import plan_stage
from raypipe.train.work import CUT, DROPPED, TRAINED, Work, Worker, work_of
from tests.support.clips import number_of, talk, write_annotations
from tests.support.prepared import drawn_run, prepared
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


def stage(*runs, **more) -> StageSettings:
    parts = [{"data": str(run)} for run in runs or ("d",)]
    base = {"name": "s", "out": "o", "start": {"random": "tiny"}, "mixture": parts}
    return StageSettings.model_validate({**base, "image_aspect": "square", "max_tokens": 1024, **more})


def examples(mixture, loaded, **more) -> Examples:
    return Examples(mixture, loaded, stage(**more))


def works(made: Examples, numbers, world: int, micro: int = 2, **more) -> list[Work]:
    """What each rank does of a global batch."""
    cpu = torch.device("cpu")
    return [work_of(made, numbers, Worker(r, world, cpu), micro, torch.float32, **more) for r in range(world)]


def test_samples_are_numbered_through_all_parts(mixture):
    assert len(mixture) == 16
    assert [mixture.sample(n).id for n in range(8)] == [mixture.sample(n).id for n in range(8, 16)]
    assert mixture.texts(0)[1] == "A bar moves."


def test_facts_of_all_samples_stand_in_columns(mixture):
    columns = mixture.columns
    assert (
        columns.kind.tolist()
        == [OF_VIDEO] * 4 + [OF_IMAGES] * 2 + [OF_VIDEO, TEXT] + columns.kind[:8].tolist()
    )
    assert columns.part.tolist() == [0] * 8 + [1] * 8
    for number in range(len(mixture)):
        sample = mixture.sample(number)
        assert columns.words[number] == sum(len(t.text.split()) for t in sample.turns)
        assert columns.ids[number].as_py() == sample.id
        used = slice(columns.starts[number], columns.starts[number + 1])
        assert [columns.names[k].as_py() for k in columns.keys[used]] == list(sample.media)
        for row, key in zip(columns.rows[used], sample.media, strict=True):
            place = mixture.parts[columns.row_part[row]]._media.index.find(key)
            assert columns.shards[columns.row_shard[row]] == place.shard
            assert (columns.row_offset[row], columns.row_length[row]) == (place.offset, place.length)
    assert (columns.length - columns.words).tolist()[:8] == [2056] * 4 + [256, 512, 2312, 0]


def test_a_sample_whose_medium_is_not_in_the_index_is_damage(tmp_path):
    """The index of another run does not name it."""
    here, other = drawn_run(tmp_path / "a"), tmp_path / "b"
    write_annotations(tmp_path / "data", [{"conversations": talk("Hello?", "Yes.")}])
    prepared(tmp_path / "data", other)
    (here / "index.arrow").write_bytes((other / "index.arrow").read_bytes())
    with pytest.raises(DamageError, match="not in the index"):
        _ = Mixture([str(here)]).columns


def test_each_sample_comes_with_its_own_media(mixture):
    """The numbers that can be read from the stored frames are those of the annotation."""
    shown = [[[number_of(f) for f in frames] for frames in mixture.frames(n)] for n in range(8)]
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


def test_what_does_not_fit_is_dropped_and_named(mixture, loaded):
    whole = examples(mixture, loaded)
    answers = [n for n, label in enumerate(whole[1].encoded.labels) if label != IGNORE]
    for made, said in (
        (examples(mixture, loaded, max_tokens=40)[1], "its media do not fit"),
        (examples(mixture, loaded, max_tokens=answers[0])[1], "no answer is left"),
        (
            examples(mixture, loaded, max_tokens=len(whole[1].encoded.ids) - 1, over_length="drop")[1],
            "more than",
        ),
    ):
        assert said in made.fault
        assert (made.encoded.learned, made.pixels, made.cut) == (0, (), False)
        assert made.id == whole[1].id
    assert examples(mixture, loaded, max_tokens=answers[0] + 1)[1].cut


def test_a_dropped_sample_is_counted_and_teaches_nothing(mixture, loaded):
    whole = examples(mixture, loaded)
    most = len(whole[0].encoded.ids)
    made = examples(mixture, loaded, max_tokens=most, over_length="drop")
    states = [DROPPED if len(whole[n].encoded.ids) > most else TRAINED for n in range(8)]
    assert {DROPPED, TRAINED} == set(states)
    for world in (1, 3):
        parts = works(made, range(8), world)
        assert [s.state for w in parts for s in w.seen] == states
        assert sum(w.dropped for w in parts) == states.count(DROPPED)
        learned = sum(b.learned for w in parts for b in w.batches)
        assert learned == sum(whole[n].encoded.learned for n in range(8) if states[n] == TRAINED)
        head = LossHead(loaded.model, loaded.family)
        sums = [head(batch) for w in parts for batch in w.batches]
        assert all(torch.isfinite(loss) for loss, _ in sums)
    shorter = works(examples(mixture, loaded, max_tokens=len(whole[1].encoded.ids) - 3), [0, 1, 7], 2)
    assert [s.state for w in shorter for s in w.seen] == [TRAINED, CUT, TRAINED]
    assert [w.cut for w in shorter] == [0, 1]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [12, 7, 1])
@pytest.mark.parametrize("packing", [False, True])
def test_every_label_of_a_batch_counts_once_over_all_ranks(mixture, loaded, world, count, packing):
    made = examples(mixture, loaded, packing=packing)
    batch = [(5 * n) % 16 for n in range(count)]
    parts = works(made, batch, world, micro=1 + count % 3)
    assert len({len(w.batches) for w in parts}) == 1  # every rank takes part in every reduction
    expected = sum(made[i].encoded.learned for i in batch)
    assert sum(b.learned for w in parts for b in w.batches) == expected
    seen = sorted(s for w in parts for s in w.seen)
    assert [(s.slot, s.number, s.id) for s in seen] == [
        (slot, number, mixture.sample(number).id) for slot, number in enumerate(batch)
    ]


def test_packed_rows_do_not_depend_on_the_workers(mixture, loaded):
    made = examples(mixture, loaded, packing=True, max_tokens=200)
    rows = {
        w: sorted(r for p in works(made, range(16), w) for b in p.batches for r in b.samples if r != ("",))
        for w in (1, 2, 3, 4)
    }
    assert rows[1] == rows[2] == rows[3] == rows[4]
    assert max(map(len, rows[1])) > 1
    for part in works(made, range(16), 2):
        for batch in part.batches:
            for row, names in enumerate(batch.samples):
                assert int(batch.segments_BL[row].max()) == len(names)
            assert batch.ids_BL.shape[1] <= 200


@given(st.lists(st.integers(2, 100), min_size=1, max_size=80))
def test_packing_keeps_every_sample_and_the_limit(lengths):
    rows = packed(lengths, 100)
    assert sorted(p for row in rows for p in row) == list(range(len(lengths)))
    assert all(sum(lengths[p] for p in row) <= 100 for row in rows)
    longest = [max(row, key=lambda p: (lengths[p], -p)) for row in rows]
    assert longest == sorted(longest)
    assert len(rows) <= 1.5 * math.ceil(sum(lengths) / 100) + 1


def test_packing_leaves_little_padding():
    """Lengths as they are mixed in stage 2: text, images of 256 tokens and videos of 2056, 3072 a row."""
    rng = np.random.default_rng(5)
    useful = slots = single = 0
    for _ in range(20):
        visual = rng.choice([0, 256, 2056], 128, p=[0.1, 0.6, 0.3])
        lengths = (visual + np.minimum(rng.gamma(2.0, 120.0, 128) + 60, 1000)).astype(int)
        rows = [sum(lengths[p] for p in row) for row in packed(lengths.tolist(), 3072)]
        for world in (1, 2, 4):
            for rank in range(world):
                for part in shares(len(rows), rank, world, 4):
                    slots += len(part) * max((rows[i] for i in part), default=0)
            useful += sum(rows)
        single += 3 * sum(4 * max(lengths[s : s + 4]) for s in range(0, 128, 4))
    assert slots <= 1.05 * useful
    assert single > 1.5 * useful


def test_whole_clips_are_mirrored_in_training_only(mixture, loaded):
    plain, made = examples(mixture, loaded), examples(mixture, loaded, flip=0.5)
    turned = set()
    for epoch in range(6):
        for number in (2, 6):  # a video; a video and an image
            whole, shown = plain[number], made.example(number, epoch)
            assert np.array_equal(made[number].pixels[0][1], whole.pixels[0][1])  # as it is evaluated
            mirrored = not np.array_equal(shown.pixels[0][1], whole.pixels[0][1])
            expected = whole.pixels[0][1][:, :, ::-1] if mirrored else whole.pixels[0][1]
            assert np.array_equal(shown.pixels[0][1], expected)
            assert np.array_equal(made.example(number, epoch).pixels[0][1], expected)
            turned.add((number, epoch, mirrored))
            for (_, one), (_, other) in zip(whole.pixels[1:], shown.pixels[1:], strict=True):
                assert np.array_equal(one, other)
    assert {mirrored for *_, mirrored in turned} == {True, False}
    assert all(
        np.array_equal(a, b)
        for (_, a), (_, b) in zip(plain.example(2, 0).pixels, plain[2].pixels, strict=True)
    )


def test_a_medium_that_is_not_there_is_damage(mixture):
    with pytest.raises(DamageError, match="index"):
        mixture.parts[0].frames("no such key")


def test_batches_are_made_ahead_in_order_and_faults_come_through():
    def make(step: int) -> Callable[[], int]:
        begun.append(step)
        if step == 5:
            raise DamageError("no such shard")
        return lambda: ended.append(step) or step

    begun: list[int] = []
    ended: list[int] = []

    ahead = Ahead(make, 2, 9)
    assert [ahead.take() for _ in range(3)] == [2, 3, 4]
    with pytest.raises(DamageError):
        ahead.take()
    assert [ahead.take() for _ in range(3)] == [6, 7, 8]
    ahead.close()
    assert begun == list(range(2, 9))
    assert ended == [2, 3, 4, 6, 7, 8]


def test_no_more_than_the_depth_is_made_ahead_and_nothing_after_the_end():
    made, go = [], threading.Event()

    def make(step: int) -> Callable[[], int]:
        go.wait(30)
        made.append(step)
        return lambda: step

    ahead = Ahead(make, 0, 100, depth=3)
    go.set()
    assert [ahead.take() for _ in range(4)] == [0, 1, 2, 3]
    ahead.close()
    assert made == list(range(len(made)))
    assert len(made) <= 8
    assert not any(t.name.startswith("loader") and t.is_alive() for t in _ended())


def _ended() -> list[threading.Thread]:
    """The threads that are there when the pools' have had time to end."""
    for thread in threading.enumerate():
        if thread.name.startswith(("loader", "decode", "fetch")):
            thread.join(30)
    return threading.enumerate()


@pytest.mark.parametrize("first", [0, 2, 5])
def test_the_loader_goes_on_at_any_step(run, mixture, loaded, first):
    """The same batches as without a stop, decoded by several threads or by one."""
    chosen = stage(run, run, global_batch=3, flip=0.5, micro_batch=2, epochs=2, group_by_length=True)
    plan = plan_stage(chosen)
    works = []
    for start, threads in ((0, 1), (first, 3)):
        made = Examples(mixture, loaded, chosen, threads)
        steps = Steps(
            made, order_of(mixture, plan, chosen), Worker(0, 2, torch.device("cpu")), chosen, torch.float32, 9
        )
        ahead = Ahead(steps, start, 9)
        works.append([ahead.take() for _ in range(start, 9)])
        ahead.close()
    for one, other in zip(works[0][first:], works[1], strict=True):
        assert one.seen == other.seen
        for a, b in zip(one.batches, other.batches, strict=True):
            assert torch.equal(a.ids_BL, b.ids_BL)
            assert a.pixels.keys() == b.pixels.keys()
            assert all(torch.equal(a.pixels[k], b.pixels[k]) for k in a.pixels)
    assert not any(t.name.startswith(("loader", "decode", "fetch")) for t in _ended())


def test_a_stage_of_other_data_than_was_planned_is_refused(run, mixture):
    chosen = stage(run, run, global_batch=3)
    plan = plan_stage(stage(run, global_batch=3))
    with pytest.raises(DamageError, match="8 were planned"):
        order_of(mixture, plan, chosen)


def test_a_model_of_eight_frames_takes_no_other_number(mixture):
    eight, four = tiny_model(), tiny_model()
    four.model.config.video_seq_length = 20
    assert examples(mixture, eight)[0].pixels
    assert examples(mixture, four)[4].pixels  # an image
    with pytest.raises(RequestError, match="8 frames for a model that takes 4"):
        examples(mixture, four)[0]


def test_frames_of_a_batch_are_where_they_were_drawn_and_nowhere_else(mixture, loaded):
    some = examples(mixture, loaded)
    together, alone = some.many([6, 7, 4, 0]), [some[n] for n in (6, 7, 4, 0)]
    for one, other in zip(together, alone, strict=True):
        assert [k for k, _ in one.pixels] == [k for k, _ in other.pixels]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(one.pixels, other.pixels, strict=True))
    clips = [frames for one in together for kind, frames in one.pixels if kind is VIDEO]
    assert np.shares_memory(joined(clips), clips[0])
    assert np.array_equal(joined(clips), np.concatenate(clips))
    turned = [clips[1], clips[0]]
    assert np.array_equal(joined(turned), np.concatenate(turned))
    assert not np.shares_memory(joined(turned), clips[0])
    second = collate([(one,) for one in together[2:]], None)
    wanted = np.concatenate([f for one in alone[2:] for k, f in one.pixels if k is VIDEO])
    assert np.array_equal(second.pixels[VIDEO].numpy(), wanted)
