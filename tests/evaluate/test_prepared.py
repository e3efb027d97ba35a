"""Frames of prepare runs in place of decoding: the same frames, and never those of another recipe."""

import json
import os
import shutil
from pathlib import Path

import pytest

from raypipe.errors import RequestError
from raypipe.evaluate import prepared as module
from raypipe.evaluate.prepared import PreparedFrames, check_prepared
from raypipe.evaluate.read import Reader
from raypipe.evaluate.run import evaluate, in_process
from raypipe.media.decode import DecodeRequest, decode
from raypipe.prepare.run import prepare as prepare_run
from raypipe.records import MediumKind, MediumRef
from raypipe.settings import Rendition, Sampling
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.evaluate.test_eval_mirror import put_tree
from tests.evaluate.test_run import predictions_in
from tests.support.clips import talk, write_annotations, write_clip
from tests.support.eval_media import IMAGES, VIDEOS, asking, eval_root
from tests.support.prepared import RENDITION, dataset, one_by_one, prepared

CLIP = MediumRef(MediumKind.VIDEO, f"{VIDEOS}/a.mp4")
IMAGE = MediumRef(MediumKind.IMAGE, f"{IMAGES}/kite.jpg")
HOW = (Sampling(), RENDITION)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "cache"))
    module._opened.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path) -> Path:
    return eval_root(tmp_path / "eval")


def prepare(root: Path, out: Path, media=(CLIP, IMAGE), **more) -> str:
    """A prepare run over these media; returns its folder."""
    records = [
        {
            "id": str(n),
            ref.kind.value: ref.path,
            "conversations": talk(f"<{ref.kind.value}>\nWhat?", "A bar."),
        }
        for n, ref in enumerate(media)
    ]
    write_annotations(root, records)
    prepared(root, out, **more)
    return str(out)


def decoded(root: Path, ref: MediumRef):
    return decode(DecodeRequest(ref.path, ref.kind, str(root), ref.path, *HOW))


@pytest.mark.parametrize("ref", [CLIP, IMAGE], ids=str)
def test_what_a_run_holds_is_what_decoding_gives(root, tmp_path, ref):
    run = prepare(root, tmp_path / "run")
    assert PreparedFrames([run], str(root)).find(ref, *HOW) == decoded(root, ref)


def test_a_medium_at_its_place_is_known_without_being_read(root, tmp_path, monkeypatch, cache):
    run = prepare(root, tmp_path / "run")
    monkeypatch.setattr(module, "_sha256", lambda file: pytest.fail("read"))
    assert PreparedFrames([run], str(root)).find(CLIP, *HOW) is not None
    assert not (cache / "prepared").exists()


def test_a_root_inside_the_data_root_and_a_link_to_it_are_the_same_place(root, tmp_path, monkeypatch):
    (root / "wide").mkdir()
    shutil.move(root / "GPT_Zero_Shot_QA", root / "wide/GPT_Zero_Shot_QA")
    run = prepare(root, tmp_path / "run", [MediumRef(CLIP.kind, f"wide/{CLIP.path}")])
    (tmp_path / "link").symlink_to(root / "wide")
    monkeypatch.setattr(module, "_sha256", lambda file: pytest.fail("read"))
    for place in (root / "wide", tmp_path / "link"):
        assert PreparedFrames([run], str(place)).find(CLIP, *HOW) == decoded(place, CLIP)


def test_the_same_content_elsewhere_is_known_by_its_hash(root, tmp_path, cache):
    run = prepare(root, tmp_path / "run")
    other = tmp_path / "other"
    (other / "clips").mkdir(parents=True)
    shutil.copyfile(root / CLIP.path, other / "clips/renamed.mp4")
    write_clip(other / "clips/new.mp4", frames=13)
    ref, new = (MediumRef(MediumKind.VIDEO, f"clips/{n}.mp4") for n in ("renamed", "new"))
    frames = PreparedFrames([run], str(other))
    assert frames.find(ref, *HOW) == decoded(other, ref)
    assert frames.find(new, *HOW) is None
    assert frames.find(MediumRef(MediumKind.IMAGE, ref.path), *HOW) is None  # another kind of medium
    assert len(list((cache / "prepared").glob("*.npy"))) == 2
    module._opened.cache_clear()
    assert PreparedFrames([run], str(other)).find(ref, *HOW) == decoded(other, ref)


def test_a_file_that_has_changed_is_another_medium(root, tmp_path):
    run = prepare(root, tmp_path / "run")
    before = os.stat(root / CLIP.path)
    data = bytearray((root / CLIP.path).read_bytes())
    write_clip(root / CLIP.path, frames=9)
    frames = PreparedFrames([run], str(root))
    assert frames.find(CLIP, *HOW) is None
    (root / CLIP.path).write_bytes(data)  # as it was, at another time: known by its content
    assert os.stat(root / CLIP.path).st_mtime_ns != before.st_mtime_ns
    assert frames.find(CLIP, *HOW) == decoded(root, CLIP)
    (root / CLIP.path).unlink()
    assert frames.find(CLIP, *HOW) is None


@pytest.mark.parametrize(
    "how",
    [(Sampling(frames=4), RENDITION), (Sampling(policy="midpoint"), RENDITION), (Sampling(), Rendition())],
    ids=["frames", "policy", "rendition"],
)
def test_another_recipe_is_never_taken(root, tmp_path, how):
    run = prepare(root, tmp_path / "run")
    frames = PreparedFrames([run], str(root))
    assert frames.find(CLIP, *HOW) is not None
    assert frames.find(CLIP, *how) is None
    with pytest.raises(RequestError, match="made with another"):
        check_prepared([run], *how)


def test_a_run_that_is_no_finished_prepare_run_is_refused(root, tmp_path):
    with pytest.raises(RequestError, match="not a run folder"):
        check_prepared([str(tmp_path / "none")], *HOW)
    run = prepare(root, tmp_path / "run")
    (Path(run) / "commit.json").unlink()
    with pytest.raises(RequestError, match="not finished"):
        check_prepared([run], *HOW)


def test_a_damaged_shard_is_not_believed(root, tmp_path, caplog):
    run = prepare(root, tmp_path / "run", [CLIP])
    shard = next((Path(run) / "media").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:200])
    assert PreparedFrames([run], str(root)).find(CLIP, *HOW) is None
    assert "decoded instead" in caplog.text


def test_a_remote_run_over_a_remote_root(root, tmp_path, s3_root):
    prepare(root, tmp_path / "run")  # writes the annotations
    store, run = put_tree(root, f"{s3_root}/eval"), f"{s3_root}/run"
    settings = dataset(root, tmp_path).model_copy(update={"data_root": store.root, "out": run})
    prepare_run(settings, execute=one_by_one)
    frames = PreparedFrames([run], store.root)
    assert frames.find(CLIP, *HOW) == decoded(root, CLIP)
    store.replace(CLIP.path, (root / VIDEOS / "b.mp4").read_bytes())
    assert frames.find(CLIP, *HOW) is None


def test_an_evaluation_decodes_only_what_no_run_holds(root, tmp_path, tiny_folder, monkeypatch):
    run = prepare(root, tmp_path / "run")
    plain = asking(root, tiny_folder, tmp_path / "plain")
    evaluate(plain, execute=in_process)
    asked: list[str] = []
    real = Reader._read

    def read(self, requests):
        asked.extend(r.path for r in requests)
        return real(self, requests)

    monkeypatch.setattr(Reader, "_read", read)
    settings = asking(root, tiny_folder, tmp_path / "quick", prepared=[run])
    summary = evaluate(settings, execute=in_process)
    assert sorted(Path(p).name for p in asked) == ["b.mp4", "cook.jpg"]
    assert summary["media"] == {"all": 4, "prepared": 2}
    assert Run.open(settings.out).manifest["totals"]["media_prepared"] == 2
    texts = [{p.question_id: p.text for p in predictions_in(s.out)} for s in (plain, settings)]
    assert texts[0] == texts[1]
    assert verify(settings.out).damage == []
    assert json.loads(Store(settings.out).read("scores.json"))["media"]["prepared"] == 2


def test_runs_of_another_recipe_stop_the_evaluation_before_it_starts(root, tmp_path, tiny_folder):
    run = prepare(root, tmp_path / "run", sampling=Sampling(frames=4))
    settings = asking(root, tiny_folder, tmp_path / "quick", prepared=[run])
    with pytest.raises(RequestError, match="made with another sampling"):
        evaluate(settings, execute=in_process)
    assert not (tmp_path / "quick").exists()
