"""The demo's drawn data: laid out as the guide has it, repeatable, and without a leak in a single frame."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import av
import numpy as np
import pytest

from raypipe import benchmark
from raypipe.demo.draw import DrawSettings, draw
from raypipe.demo.scenes import BACKDROPS, CLIP_FRAMES, COUNTS, SAMPLED, frame_backdrops
from raypipe.media.sampling import positions
from raypipe.settings import Sampling

SMALL = DrawSettings(train_clips=12, train_images=12, heldout_clips=12, heldout_images=8)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn"), SMALL)


def _hashes(root):
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_the_same_seed_draws_the_same_bytes(drawn, tmp_path):
    assert _hashes(draw(tmp_path / "again", SMALL)) == _hashes(drawn)


def test_another_seed_draws_other_clips(drawn, tmp_path):
    other = _hashes(draw(tmp_path / "other", DrawSettings(**{**vars(SMALL), "seed": 8})))
    clips = [n for n in other if n.endswith(".mp4")]
    assert clips
    assert all(other[n] != _hashes(drawn).get(n) for n in clips)


def test_what_is_drawn_is_not_drawn_again(drawn):
    before = {p: p.stat().st_mtime_ns for p in drawn.rglob("*.mp4")}
    draw(drawn, SMALL)
    assert {p: p.stat().st_mtime_ns for p in drawn.rglob("*.mp4")} == before


def test_a_half_drawn_folder_is_completed(drawn, tmp_path):
    half = tmp_path / "half"

    def stop(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(half, SMALL, stop)
    assert not (half / "drawn.json").exists()
    assert _hashes(draw(half, SMALL)) == _hashes(drawn)


def test_train_and_heldout_share_no_clip_or_image(drawn):
    train = {h for n, h in _hashes(drawn / "DATA_ROOT").items() if n.endswith((".mp4", ".png"))}
    heldout = {h for n, h in _hashes(drawn / "eval").items() if n.endswith((".mp4", ".png"))}
    assert train
    assert heldout
    assert not train & heldout


@pytest.mark.parametrize("name", ["msvd_qa", "pope", "gqa"])
def test_the_benchmarks_read_it(drawn, name):
    questions = benchmark.load(name).questions(drawn / "eval")
    assert questions
    assert all(q.medium and (drawn / "eval" / q.medium.path).is_file() for q in questions)


def test_every_record_names_media_that_are_there(drawn):
    root = drawn / "DATA_ROOT"
    records = [r for f in root.glob("*_json/*.json") for r in json.loads(f.read_text())]
    media = [r[k] for r in records for k in ("video", "image") if k in r]
    assert len(records) > 40
    assert media
    assert all((root / m).is_file() for m in media)


def test_the_new_kind_of_question_is_only_in_the_lora_stage(drawn):
    def asks_size(folder: str) -> int:
        texts = [f.read_text() for f in (drawn / "DATA_ROOT" / folder).glob("*.json")]
        return sum(t.count("big or small") for t in texts)

    assert asks_size("pt_json") == asks_size("ft_json") == 0
    assert asks_size("lora_json") > 0


def test_every_scene_covers_two_sampled_frames():
    kept = positions(CLIP_FRAMES, Sampling(frames=SAMPLED))
    for seed in range(200):
        for count in (1, 2, 3):
            shown = frame_backdrops(count, np.random.default_rng(seed))[list(kept)]
            assert len(set(shown)) == count
            assert min(Counter(shown.tolist()).values()) >= 2


def test_one_frame_says_nothing_about_the_number_of_scenes():
    """Over many clips, each backdrop is as likely in any one frame whatever the count."""
    clips = 6000
    rng = np.random.default_rng(1)
    shares = {}
    for count in (1, 2, 3):
        shown = np.stack([frame_backdrops(count, rng) for _ in range(clips)])
        shares[count] = np.stack([(shown == b).mean(axis=0) for b in range(len(BACKDROPS))])
    for share in shares.values():
        assert np.abs(share - 1 / len(BACKDROPS)).max() < 5 * np.sqrt(2 / 9 / clips)


def test_a_clip_shows_the_scenes_its_answer_says(drawn):
    folder = drawn / "eval" / "GPT_Zero_Shot_QA" / "MSVD_Zero_Shot_QA"
    questions = json.loads((folder / "test_q.json").read_text())
    answers = {a["question_id"]: a for a in json.loads((folder / "test_a.json").read_text())}
    checked = 0
    for question in questions:
        answer = answers[question["question_id"]]
        if answer["type"] != "scenes":
            continue
        with av.open(str(folder / "videos" / f"{question['video_name']}.mp4")) as clip:
            corners = [f.to_ndarray(format="rgb24")[:4, :4].mean(axis=(0, 1)) for f in clip.decode(video=0)]
        assert len(corners) == CLIP_FRAMES
        nearest = {int(np.argmin([np.abs(np.array(b) - c).sum() for b in BACKDROPS])) for c in corners}
        assert COUNTS[len(nearest) - 1] == answer["answer"]
        checked += 1
    assert checked == SMALL.heldout_clips
