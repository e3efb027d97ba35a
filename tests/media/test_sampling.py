"""Which frames are kept: the reference's own vectors, and what holds for any count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.media.sampling import choose, positions
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


def rate(fps: float, low: int = 1, high: int = 64) -> Sampling:
    return Sampling(policy="fps", fps=fps, min_frames=low, max_frames=high)


def test_frames_a_second_take_what_is_on_show_at_each_instant():
    times = np.array([0, 0.4, 0.9, 1.0, 1.9, 2.0001, 3.5])
    none = np.zeros(7, bool)
    assert choose(times, none, rate(1)) == (0, 3, 4, 5)
    assert choose(times + 7, none, rate(1)) == (0, 3, 4, 5)  # from the first frame on
    assert choose(times, none, rate(1000)) == tuple(range(7))  # never more than there are
    assert choose(times, none, rate(0.01)) == (0,)


def test_frames_a_second_hit_frames_at_just_that_rate():
    times = np.arange(3000) * (1001 / 30000)
    assert choose(times, times > -1, rate(30000 / 1001, high=4096)) == tuple(range(3000))


def test_the_bounds_of_frames_a_second_spread_evenly_in_time():
    times = np.array([0.0, 0.1, 0.2, 0.3, 5.0, 10.0])
    assert choose(times, times > -1, rate(10, high=3)) == (0, 4, 5)
    assert choose(times, times > -1, rate(0.01, low=3)) == (0, 4, 5)
    assert choose(times[:2], times[:2] > -1, rate(1, low=4)) == (0, 0, 0, 1)


def test_keyframes_are_thinned_with_the_first_and_the_last():
    keys = np.zeros(100, bool)
    keys[::10] = True
    sampling = Sampling(policy="keyframes", min_frames=1, max_frames=4)
    assert choose(np.arange(100.0), keys, sampling) == (0, 30, 60, 90)
    assert choose(np.arange(100.0), keys, Sampling(policy="keyframes")) == tuple(range(0, 100, 10))
    assert choose(np.arange(5.0), np.zeros(5, bool), sampling) == (0,)


@given(
    st.lists(st.floats(1e-3, 5), min_size=1, max_size=80),
    st.floats(0.01, 60),
    st.integers(1, 20),
    st.integers(0, 20),
)
def test_any_times(steps, fps, low, more):
    times = np.cumsum(steps)
    kept = choose(times, times > 0, rate(fps, low, low + more))
    assert list(kept) == sorted(kept)
    assert kept[0] == 0
    assert kept[-1] < len(times)
    assert len(kept) <= low + more
    assert len(set(kept)) == len(kept) or len(kept) == low


def test_counts_alone_do_not_do_for_rates():
    with pytest.raises(ValueError, match="times"):
        positions(10, rate(1))
    assert choose(np.arange(10.0), np.ones(10, bool), Sampling()) == positions(10, Sampling())
