"""The catalogue of bad and odd media: each through one shared child, each with its end, nothing else lost."""

from collections.abc import Iterator

import numpy as np
import pytest

from raypipe.media.decode import DecodeRequest
from raypipe.media.rendition import load_frame
from raypipe.media.sandbox import Sandbox
from raypipe.records import Medium, MediumKind, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling
from tests.media.catalogue import CASES, GREY
from tests.support.clips import number_of, picture, write_clip


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(DecodeLimits(timeout_s=30)) as one:
        yield one


@pytest.mark.parametrize("name", CASES)
def test_each_ends_as_it_should_and_the_next_is_not_harmed(name, sandbox, tmp_path):
    kind, build, expected = CASES[name]
    root = tmp_path / "root"
    root.mkdir()
    write_clip(root / "good.mp4", 9)
    made = build(root)
    path, more = made if isinstance(made, tuple) else (made, {})
    lossless = Rendition(codec="lossless", short_side=1000)
    good = DecodeRequest("good", MediumKind.VIDEO, str(root), "good.mp4", Sampling(), lossless)
    assert isinstance(sandbox.decode(good), Medium)
    child = sandbox._child.pid
    found = sandbox.decode(DecodeRequest("k", kind, str(root), path, Sampling(), lossless, **more))
    if expected == "ok":
        assert isinstance(found, Medium), found
        assert (found.key, found.path) == ("k", path)
        _check_shown(name, found)
    else:
        assert isinstance(found, Rejection), found.frame_index
        assert found.reason in (expected if isinstance(expected, tuple) else (expected,)), found
        assert (found.id, found.path, found.what) == ("k", path, "medium")
        assert found.detail
    after = sandbox.decode(good)
    assert isinstance(after, Medium)
    assert [number_of(f) for f in after.frames] == list(range(8)) or after.frame_index[-1] == 8
    assert sandbox._child.pid == child  # none of these costs a child


def _check_shown(name: str, medium: Medium) -> None:
    if name in GREY:
        truth = np.asarray(picture(9).convert("1" if "1 bit" in name else "L").convert("RGB"))
        assert np.abs(load_frame(medium.frames[0]).astype(int) - truth).max() <= 1
    elif medium.kind is MediumKind.IMAGE:
        assert number_of(medium.frames[0]) == 9
    else:
        assert len(medium.frames) == 8
        assert [number_of(f) for f in medium.frames] == list(medium.frame_index)


def test_the_catalogue_is_large():
    assert len(CASES) >= 60
