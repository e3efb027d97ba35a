"""Which samples are shown: a mix, the same each time, whatever the order of rows."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from raypipe.grading.metrics import Graded
from raypipe.report.samples import choose, data_uri, group_of, mark_of, sample_cap, shorten

GROUPS = ("right", "wrong", "gained", "lost", "missing")


@given(st.dictionaries(st.text("abcdef0123", min_size=1), st.sampled_from(GROUPS)), st.randoms())
def test_the_choice_does_not_depend_on_order(groups: dict[str, str], random) -> None:
    media = {i: i[:1] for i in groups}
    shuffled = list(groups.items())
    random.shuffle(shuffled)
    picked = choose(groups, media, 24)
    assert picked == choose(dict(shuffled), media, 24)
    assert len(picked) == len(set(picked)) == min(24, len(groups))


def test_rare_groups_are_shown() -> None:
    groups = {f"q{i}": "right" for i in range(900)} | {"w1": "wrong", "w2": "wrong", "m": "missing"}
    shown = Counter(groups[i] for i in choose(groups, {}, 24))
    assert shown == {"right": 21, "wrong": 2, "missing": 1}


def test_different_media_come_first() -> None:
    groups = {f"q{i}": "right" for i in range(40)}
    media = {f"q{i}": f"clip{i % 10}" for i in range(40)}
    assert len({media[i] for i in choose(groups, media, 10)}) == 10


def test_an_answer_without_a_grade_is_missing_not_wrong() -> None:
    assert mark_of(None) == "missing"
    assert mark_of(Graded("q", "m", "", None)) == "missing"
    assert [mark_of(Graded("q", "m", "", v)) for v in (0.0, 0.3, 1.0)] == ["wrong", "partial", "right"]
    assert mark_of(Graded("q", "m", "", None, score=3.0)) == "partial"
    assert group_of(["missing", "right"]) == "missing"
    assert group_of(["right", "wrong"]) == "lost"


def test_caps() -> None:
    assert (sample_cap(1), sample_cap(16), sample_cap(400)) == (24, 10, 4)
    assert shorten("a" * 700) == "a" * 600 + "… (+100 characters)"


def test_only_images_become_data_uris() -> None:
    assert data_uri(b"\xff\xd8\xffxyz").startswith("data:image/jpeg;base64,")
    assert data_uri(b"<svg onload=alert(1)>") == ""
