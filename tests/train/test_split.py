"""The split: by medium, without leaks, the same whatever is added."""

from pathlib import Path

import pytest

from raypipe.errors import RequestError
from raypipe.settings import StageSettings
from raypipe.train.mixture import Mixture
from raypipe.train.order import order_of
from raypipe.train.plan import plan_stage
from raypipe.train.split import split
from tests.support.clips import picture, talk, write_annotations
from tests.support.prepared import prepared


def records(first: int, last: int) -> list[dict]:
    """Two samples about each picture, one about it and the one before, and one of text alone."""
    out: list[dict] = []
    for n in range(first, last):
        one = f"p/{n}.png"
        out += [{"image": one, "conversations": talk(f"<image>\nWhat is {q}?", "Blue.")} for q in "ab"]
        if n % 2:
            two = [f"p/{n - 1}.png", one]
            out.append({"image": two, "conversations": talk("<image><image>\nThe same?", "No.")})
        out.append({"conversations": talk(f"What is {n} and one?", f"It is {n + 1}.")})
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """``some`` holds 40 pictures, ``more`` the same and 20 others, of which two are byte-equal copies."""
    root = tmp_path_factory.mktemp("split")
    (root / "data/p").mkdir(parents=True)
    for number in range(60):
        shown = {58: 3, 59: 7}.get(number, number)
        shade = picture(shown % 20).point(lambda value, by=shown // 20: max(0, value - 40 * by))
        shade.save(root / f"data/p/{number}.png")
    for name, last in (("some", 40), ("more", 60)):
        write_annotations(root / "data", records(0, last))
        prepared(root / "data", root / name, media_per_shard=1)
    return {name: root / name for name in ("some", "more")}


def stage(*parts, fraction: float = 0.25, seed: int = 42, **more) -> StageSettings:
    base = {"name": "s", "out": "o", "start": {"random": "tiny"}, "global_batch": 8, "seed": seed}
    mixture = [
        {"data": str(p)} if isinstance(p, Path) else {"data": str(p[0]), "weight": p[1]} for p in parts
    ]
    return StageSettings.model_validate(
        {**base, "mixture": mixture, "validation": {"fraction": fraction}, **more}
    )


def ids(mixture: Mixture, numbers) -> set[str]:
    return {mixture.sample(int(n)).id for n in numbers}


def rows_of(mixture: Mixture, numbers) -> set[bytes]:
    """The frames that samples show."""
    return {frames[0] for n in numbers for frames in mixture.frames(int(n))}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_that_is_held_out_is_trained_on(runs, seed):
    """Also not under another name, nor in another part."""
    mixture = Mixture([str(runs["some"]), str(runs["more"])])
    parts = split(mixture, stage(runs["some"], runs["more"], seed=seed))
    assert sorted([*parts.train, *parts.held]) == list(range(len(mixture)))
    assert not ids(mixture, parts.train) & ids(mixture, parts.held)
    keys = [{k for n in side for k in mixture.sample(int(n)).media} for side in (parts.train, parts.held)]
    chosen = {
        k for n in parts.held for k in mixture.sample(int(n)).media if len(mixture.sample(int(n)).media) == 1
    }
    assert chosen
    assert not chosen & keys[0]
    held = rows_of(mixture, [n for n in parts.held if len(mixture.sample(int(n)).media) == 1])
    assert not held & rows_of(mixture, parts.train)
    text = [n for n in parts.held if not mixture.sample(int(n)).media]
    assert 0 < len(text) < 50


def test_a_byte_equal_copy_is_the_same_medium(runs):
    mixture = Mixture([str(runs["more"])])
    columns = mixture.columns
    assert len(columns.names) == 60
    assert len(columns.row_offset) == 58
    together = 0
    for seed in range(30):
        parts = split(mixture, stage(runs["more"], seed=seed))
        held = {mixture.sample(int(n)).media[0] for n in parts.held if len(mixture.sample(int(n)).media) == 1}
        by_row: dict[int, set[bool]] = {}
        for key, row in zip(columns.keys.tolist(), columns.rows.tolist(), strict=True):
            by_row.setdefault(row, set()).add(columns.names[key].as_py() in held)
        assert all(len(states) == 1 for states in by_row.values())
        together += len(held)
    assert together


def test_what_was_held_stays_held_when_data_is_added(runs):
    """But for what turns out to be a copy of something held, nothing changes its side."""
    before, after = Mixture([str(runs["some"])]), Mixture([str(runs["more"]), str(runs["some"])])
    for seed in range(5):
        few, many = (
            split(before, stage(runs["some"], seed=seed)),
            split(after, stage(runs["more"], runs["some"], seed=seed)),
        )
        assert ids(before, few.held) <= ids(after, many.held)
        assert len(ids(before, few.train) & ids(after, many.held)) <= 8


def test_the_split_is_a_function_of_the_seed(runs):
    mixture = Mixture([str(runs["more"])])
    sides = [tuple(split(mixture, stage(runs["more"], seed=s)).held) for s in (1, 1, 2)]
    assert sides[0] == sides[1] != sides[2]
    shares = [
        len(split(mixture, stage(runs["more"], seed=s, fraction=0.2)).held) / len(mixture) for s in range(20)
    ]
    assert 0.2 < sum(shares) / len(shares) < 0.45  # a sample with two media has two chances
    assert len(split(mixture, stage(runs["more"], fraction=0.0)).held) == 0


def test_a_plan_counts_what_trains(runs):
    parts = [runs["some"], (runs["more"], 0.5)]
    chosen = stage(*parts)
    plan = plan_stage(chosen)
    mixture = Mixture(plan.data)
    sides = split(mixture, chosen)
    trains = [int((mixture.columns.part[sides.train] == p).sum()) for p in (0, 1)]
    assert plan.held == len(sides.held) > 0
    assert plan.samples == trains[0] + trains[1] // 2
    assert plan.steps == plan.steps_per_epoch == -(-plan.samples // 8)
    order = order_of(mixture, plan, chosen)
    # Of an odd number the second epoch takes one more, which may be a step of its own.
    seen = {n for epoch in (0, 1) for step in order.steps(epoch) for n in order.batch(step)}
    assert not seen & set(sides.held.tolist())
    assert seen == set(sides.train.tolist())
    assert plan_stage(stage(*parts, fraction=0.0)).held == 0


def test_a_split_that_leaves_nothing_is_refused(runs, tmp_path):
    write_annotations(tmp_path / "data", [{"conversations": talk("Name a colour.", "Blue.")}])
    prepared(tmp_path / "data", tmp_path / "run")
    said = set()
    for seed in range(8):
        with pytest.raises(RequestError, match="nothing") as fault:
            plan_stage(stage(tmp_path / "run", fraction=0.5, seed=seed))
        said.add(str(fault.value).split("nothing")[1][:8])
    assert len(said) == 2  # nothing to train on; nothing held out
