import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade, scores
from raypipe.errors import RequestError
from raypipe.records import Outcome, Reason
from raypipe.report.score import score_answers
from tests.support.clips import number_of, write_clip
from tests.support.eval_roots import made_up, write_json, write_lines

SEED = benchmarks.load("seed_bench")
ANNOTATION, ASKED = "seed_bench/SEED-Bench.json", "seed_bench/llava-seed-bench.jsonl"


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "seed_bench")


def _graded(root, *replies):
    return [grade(SEED, q, reply) for q, reply in zip(SEED.questions(root), replies, strict=True)]


def test_a_reply_is_the_letter_and_nothing_else(root):
    metrics = SEED.metrics(_graded(root, "B", "C.", "A"))
    assert metrics == {
        "accuracy": pytest.approx(200 / 3),
        "accuracy/Action Recognition": 100,
        "accuracy/Counting": 100,
        "accuracy/Scene": 0,  # where the reference stops
        "image": 50,
        "video": 100,
    }


def test_an_unanswered_question_is_missing(root):
    graded = _graded(root, "B", "C", "A")
    graded[0] = benchmarks.ungraded(SEED.questions(root)[0], Outcome.MEDIUM_BAD)
    found = {s.metric: s for s in scores(SEED, graded)}
    assert (found["accuracy"].value, found["accuracy"].n, found["accuracy"].missing) == (100, 2, 1)
    assert (found["video"].n, found["video"].missing) == (0, 1)


def test_ids_are_the_same_number_or_the_same_text(root):
    assert [q.row_id for q in SEED.questions(root)] == ["v12", "7", "8"]
    assert SEED.questions(root)[0].medium.path == "seed_bench/SEED-Bench-video-image/10_v12.png"
    write_lines(
        root / "answers.jsonl", [{"question_id": 7, "text": "C"}, {"question_id": "v12", "text": "A"}]
    )
    found = score_answers("seed_bench", root, root / "answers.jsonl")
    assert (found["n"], found["missing"], found["metrics"]["accuracy"]) == (2, 1, 50)


def test_upload_is_in_the_order_of_the_annotation(root, tmp_path):
    questions = SEED.questions(root)
    replies = {q.id: f"{q.reference}\n" for q in questions}
    (file,) = SEED.upload(root, questions, replies, tmp_path / "out/a.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"question_id": "7", "prediction": "C"},
        {"question_id": "0008", "prediction": "A"},
        {"question_id": "v12", "prediction": "B"},
    ]
    replies.popitem()
    with pytest.raises(RequestError, match="1 of 3 questions"):
        SEED.upload(root, questions, replies, tmp_path / "out/b.jsonl")
    assert not (tmp_path / "out/b.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["questions"][0].update(choice_a="a cup", choice_b="a pan"),
            r"question 1 \(7\): 'What is shown",
        ),
        (lambda c: c["questions"][0].update(question="What else is shown?"), r"question 1 \(7\): 'What else"),
        (lambda c: c["questions"][0].update(answer="E"), r"question 1 \(7\): the answer is none"),
        (lambda c: c["questions"][0].update(data_type="sound"), "neither image nor video: 'sound'"),
        (lambda c: c["questions"][0].update(question_type_id=99), "names no type '99'"),
        (lambda c: c["questions"][1].update(question_id=7), r"question 2 \(7\): another entry for 7"),
        (lambda c: c["questions"].pop(0), "line 2: 7 is not in SEED-Bench.json"),
        (lambda c: c["questions"].append({**c["questions"][0], "question_id": 99}), "holds 1 .* example 99"),
        (lambda c: c["questions"].append("text"), "does not hold 'questions'"),
        (lambda c: c.pop("question_type"), "does not hold 'question_type'"),
    ],
)
def test_files_that_disagree_are_refused(root, change, message):
    content = json.loads((root / ANNOTATION).read_text())
    change(content)
    write_json(root / ANNOTATION, content)
    with pytest.raises(RequestError, match=message):
        SEED.questions(root)


def test_a_picture_outside_of_the_folder_is_refused(root):
    path = root / ASKED
    path.write_text(path.read_text().replace("SEED-Bench-image/1_7.png", "../../1_7.png"))
    with pytest.raises(RequestError, match="not a name inside seed_bench"):
        SEED.questions(root)


def test_video_questions_get_the_frame_that_they_name(root, tmp_path):
    content = json.loads((root / ANNOTATION).read_text())
    video = content["questions"][2]
    more = [
        {**video, "question_id": "v13", "question_type_id": 11, "data_id": "P01/c", "segment": [0.5, 1.5]},
        {**video, "question_id": "v14", "question_type_id": 12, "data_id": "P03/d.avi", "segment": [2, 9]},
        {**video, "question_id": "v15", "question_type_id": 12, "data_id": "none.avi", "segment": [2, 9]},
    ]
    content["questions"] += more
    write_json(root / ANNOTATION, content)
    write_clip(tmp_path / "ssv2/data/v12.webm", frames=13, codec="libvpx-vp9")
    write_clip(tmp_path / "epic/c.MP4", frames=30)  # found by the last part of its id, at 10 a second
    write_clip(tmp_path / "breakfast/P03/d.avi", frames=12, codec="mpeg4")
    found = SEED.extract(root, {"ssv2": tmp_path / "ssv2", "breakfast": tmp_path / "breakfast"})
    assert (found.written, found.present) == (2, 0)
    (lost,) = found.refused.items()
    assert (lost[0], lost[1].reason) == ("seed_bench/SEED-Bench-video-image/12_v15.png", Reason.MEDIA_MISSING)
    found = SEED.extract(root, {"ssv2": tmp_path / "ssv2", "epic_kitchens": tmp_path / "epic"})
    assert (found.written, found.present) == (1, 1)
    frames = root / "seed_bench/SEED-Bench-video-image"
    assert {f.name: number_of(f.read_bytes()) for f in frames.iterdir()} == {
        "10_v12.png": 5,
        "11_v13.png": 9,  # 5 to 15
        "12_v14.png": 5,  # 2 to 9
    }


@pytest.mark.parametrize("segment", [None, [1], ["a", 2], 5, [1, 2, 3]])
def test_a_segment_that_is_none_is_refused(root, tmp_path, segment):
    content = json.loads((root / ANNOTATION).read_text())
    content["questions"][2].update(question_type_id=11, segment=segment)
    write_json(root / ANNOTATION, content)
    with pytest.raises(RequestError, match="question 3: the segment is not two numbers"):
        SEED.extract(root, {"epic_kitchens": tmp_path})


def test_unknown_and_missing_sources_are_refused(root, tmp_path):
    with pytest.raises(RequestError, match="'epic' is no source") as fault:
        SEED.extract(root, {"epic": tmp_path})
    assert "epic_kitchens" in fault.value.remedy
    with pytest.raises(RequestError, match="no such folder"):
        SEED.extract(root, {"ssv2": tmp_path / "none"})
