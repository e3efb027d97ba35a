"""Which frames are kept: the reference's own vectors, and what holds for any count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.media.sampling import positions
from raypipe.settings import Sampling

VECTORS = {  # shared/reference/protocol.md, 1.3
    243: (0, 34, 69, 103, 138, 172, 207, 242),
    146: (0, 20, 41, 62, 82, 103, 124, 145),
    219: (0, 31, 62, 93, 124, 155, 186, 218),
    1090: (0, 155, 311, 466, 622, 777, 933, 1089),
    636: (0, 90, 181, 272, 362, 453, 544, 635),
    10: (0, 1, 2, 3, 5, 6, 7, 9),
    5: (0, 0, 1, 1, 2, 2, 3, 4),
    1: (0,) * 8,
}


@pytest.mark.parametrize("count", VECTORS)
def test_uniform_is_the_reference(count):
    assert positions(count, Sampling()) == VECTORS[count]


@given(st.integers(1, 10**6), st.integers(1, 512), st.sampled_from(["uniform", "midpoint"]))
def test_any_count(count, frames, policy):
    kept = positions(count, Sampling(policy=policy, frames=frames))
    assert len(kept) == frames
    assert list(kept) == sorted(kept)
    assert kept[0] >= 0
    assert kept[-1] < count
    if policy == "uniform":
        assert kept[0] == 0
        assert kept[-1] == count - 1 or frames == 1
    elif count >= frames:
        assert len(set(kept)) == frames


def test_midpoint_takes_the_middle_of_each_bin():
    assert positions(80, Sampling(policy="midpoint")) == (5, 15, 25, 35, 45, 55, 65, 75)


def test_no_frames_no_positions():
    with pytest.raises(ValueError, match="without frames"):
        positions(0, Sampling())
