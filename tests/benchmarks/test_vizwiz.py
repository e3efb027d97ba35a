import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.report.score import score_answers
from tests.support.eval_root_vqa import BLIND, ONE_WORD
from tests.support.eval_roots import made_up, write_json, write_lines

TEST = benchmarks.load("vizwiz")
VAL = benchmarks.load("vizwiz", "val")


@pytest.fixture
def root(tmp_path):
    made_up(tmp_path, "vizwiz:test")
    return made_up(tmp_path, "vizwiz:val")


def test_both_splits_ask_alike(root):
    assert benchmarks.splits("vizwiz") == ["test", "val"]
    test, val = TEST.questions(root), VAL.questions(root)
    assert [q.prompt for q in test] == [q.prompt for q in val]
    assert test[1].question == "Ok. Is it on?"
    assert (test[0].row_id, val[0].row_id) == ("0", "VizWiz_val_00000000.jpg")
    assert test[0].medium.path == "vizwiz/test/VizWiz_test_00000000.jpg"
    assert val[0].medium.path == "vizwiz/val/VizWiz_val_00000000.jpg"
    assert val[2].tags == ("answerability=unanswerable", "answer_type=unanswerable")


def test_upload_is_in_the_order_of_the_questions(root):
    questions = TEST.questions(root)
    replies = dict(zip([q.id for q in reversed(questions)], ["Unanswerable", "", "The Soup."], strict=True))
    out = root / "new/upload.json"
    assert TEST.upload(root, questions, replies, out) == [out]
    assert out.read_text() == (
        '[{"image": "VizWiz_test_00000000.jpg", "answer": "soup"}, '
        '{"image": "VizWiz_test_00000001.jpg", "answer": ""}, '
        '{"image": "VizWiz_test_00000002.jpg", "answer": "unanswerable"}]'
    )


def test_an_incomplete_upload_is_refused_and_an_old_file_left(root):
    questions = TEST.questions(root)
    out = root / "upload.json"
    out.write_text("old")
    with pytest.raises(RequestError, match=r"2 of 3 questions .* example '1'"):
        TEST.upload(root, questions, {questions[0].id: "soup"}, out)
    assert out.read_text() == "old"


def test_val_metrics_by_answer_type_and_answerability(root):
    replies = {0: "Soup.", 1: "No", 2: "the left one"}
    rows = [
        {"question_id": f"VizWiz_val_0000000{number}.jpg", "text": text} for number, text in replies.items()
    ]
    write_lines(root / "answers.jsonl", rows)
    found = score_answers("vizwiz", root, root / "answers.jsonl", "val")
    assert found["metrics"] == {
        "accuracy": pytest.approx(200 / 3),
        "accuracy/answer_type=other": 100,
        "accuracy/answer_type=unanswerable": 0,
        "accuracy/answer_type=yes/no": 100,
        "accuracy/answerability=answerable": 100,
        "accuracy/answerability=unanswerable": 0,
    }
    assert (found["n"], found["missing"], found["split"]) == (3, 0, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerable": "yes"}, "row 1: field 'answerable' is neither 0 nor 1: 'yes'"),
        ({"answerable": None}, "row 1: field 'answerable'"),
        ({"answers": []}, "row 1: 0 answers"),
        ({"answer_type": None}, "row 1: field 'answer_type' is not text"),
        ({"image": "/etc/passwd"}, "row 1: medium '/etc/passwd'"),
        ({"question": None}, "row 1: field 'question' is not text"),
    ],
)
def test_a_damaged_annotation_is_refused(root, change, message):
    rows = json.loads((root / "vizwiz/val.json").read_text())
    write_json(root / "vizwiz/val.json", [{**rows[0], **change}])
    with pytest.raises(RequestError, match=message):
        VAL.questions(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": f"What is this?{ONE_WORD}"}, "line 1: the text does not end in"),
        ({"image": "../a.jpg"}, "line 1: medium '../a.jpg'"),
        ({"question_id": None}, "line 1: field 'question_id' is not text"),
    ],
)
def test_a_damaged_question_is_refused(root, change, message):
    row = {"question_id": 0, "image": "VizWiz_test_00000000.jpg", "text": f"What is this?{BLIND}"}
    write_lines(root / "vizwiz/llava_test.jsonl", [{**row, **change}])
    with pytest.raises(RequestError, match=message):
        TEST.questions(root)
