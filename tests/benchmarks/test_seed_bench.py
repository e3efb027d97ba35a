import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade, scores
from raypipe.errors import RequestError
from raypipe.records import Outcome
from raypipe.report.score import score_answers
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
            "question 7: 'What is shown",
        ),
        (lambda c: c["questions"][0].update(question="What else is shown?"), "question 7: 'What else"),
        (lambda c: c["questions"][0].update(answer="E"), "question 7: the answer is none of the options"),
        (lambda c: c["questions"][0].update(data_type="sound"), "neither image nor video: 'sound'"),
        (lambda c: c["questions"][0].update(question_type_id=99), "names no type '99'"),
        (lambda c: c["questions"][1].update(question_id=7), "question 2: id '7' is there twice"),
        (lambda c: c["questions"].pop(0), "line 2: '7' is there twice, or not in"),
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
