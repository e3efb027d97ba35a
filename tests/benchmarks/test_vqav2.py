import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade
from raypipe.errors import RequestError
from raypipe.report.score import read_replies, score_answers
from tests.support.eval_root_vqa import UNASKED_ID, VQA_ROWS, numbered
from tests.support.eval_roots import made_up, write_json, write_lines

TEST = benchmarks.load("vqav2")
VAL = benchmarks.load("vqav2", "val2014")
QUESTIONS = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "vqav2/v2_mscoco_val2014_annotations.json"
ALL = "vqav2/llava_vqav2_mscoco_test2015.jsonl"
TEST_DEV = "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl"


@pytest.fixture
def test_root(tmp_path):
    return made_up(tmp_path, "vqav2:test-dev2015")


@pytest.fixture
def val_root(tmp_path):
    return made_up(tmp_path, "vqav2:val2014")


def answered(root, texts):
    path = root / "answers.jsonl"
    write_lines(path, [{"question_id": row_id, "text": text} for row_id, text in texts.items()])
    return path


def exported(root, texts):
    questions = TEST.questions(root)
    replies, *_ = read_replies(questions, answered(root, texts))
    return TEST.upload(root, questions, replies, root / "new/upload.json")


def test_both_splits_and_their_media(test_root, val_root):
    assert benchmarks.splits("vqav2") == ["test-dev2015", "val2014"]
    assert TEST.questions(test_root)[0].medium.path == "vqav2/test2015/COCO_test2015_000000262144.jpg"
    assert VAL.questions(val_root)[0].medium.path == "vqav2/val2014/COCO_val2014_000000262144.jpg"
    assert (TEST.rule, TEST.split, TEST.published["accuracy"]) == (None, "test-dev2015", 74.7)
    assert not VAL.published  # what papers print is test-dev


def test_upload_is_all_of_test2015_in_its_order(test_root):
    written = exported(test_root, {262144006: "Two dogs.", 262144005: "Yes"})
    assert written == [test_root / "new/upload.json"]
    assert json.loads(written[0].read_bytes()) == [
        {"question_id": 393225000, "answer": ""},  # not answered
        {"question_id": UNASKED_ID, "answer": ""},  # not asked
        {"question_id": 262144005, "answer": "yes"},
        {"question_id": 262144006, "answer": "2 dogs"},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:3], "lacks 1 of the questions asked, for example 262144006"),
        (lambda rows: [*rows, rows[0]], "line 5: question 393225000 is there twice"),
        (lambda rows: [{**rows[0], "text": "Why?"}, *rows[1:]], "393225000 is 'What is he holding.* 'Why"),
        (lambda rows: [{"question_id": 1}, *rows], "line 1: field 'text' is missing"),
    ],
)
def test_a_test2015_that_does_not_fit_is_refused_and_nothing_written(test_root, change, message):
    rows = [json.loads(line) for line in (test_root / ALL).read_text().splitlines()]
    write_lines(test_root / ALL, change(rows))
    with pytest.raises(RequestError, match=message):
        exported(test_root, {262144005: "Yes"})
    assert not (test_root / "new").exists()


def test_an_upload_without_test2015_or_answers_is_refused(test_root):
    with pytest.raises(RequestError, match="none of the 3 questions"):
        TEST.upload(test_root, TEST.questions(test_root), {}, test_root / "new/upload.json")
    (test_root / ALL).unlink()
    with pytest.raises(RequestError, match=f"no such file: .*{ALL}"):
        exported(test_root, {262144005: "Yes"})
    assert not (test_root / "new").exists()


def test_an_id_that_is_asked_twice_cannot_be_uploaded(test_root):
    rows = [json.loads(line) for line in (test_root / TEST_DEV).read_text().splitlines()]
    write_lines(test_root / TEST_DEV, [*rows, {**rows[0], "text": rows[1]["text"]}])
    questions = TEST.questions(test_root)
    with pytest.raises(RequestError, match="1 questions share an id"):
        TEST.upload(test_root, questions, {questions[0].id: "yes"}, test_root / "new/upload.json")


def test_a_media_name_that_leads_out_is_refused(test_root):
    rows = [json.loads(line) for line in (test_root / TEST_DEV).read_text().splitlines()]
    write_lines(test_root / TEST_DEV, [{**rows[0], "image": "../../etc/passwd"}])
    with pytest.raises(RequestError, match="line 1: medium"):
        TEST.questions(test_root)


def test_val_is_scored_as_the_server_scores_an_upload(val_root):
    questions = VAL.questions(val_root)
    marks = [
        grade(VAL, question, text).value
        for question, text in zip(questions, ["Yes", "Two", "toy"], strict=True)
    ]
    assert marks == pytest.approx([1, 1, 0.3])
    # ten answers "two" are compared as they are, and the upload holds "2"
    rows = [{**_annotation(row), "answers": numbered(["two"] * 10)} for row in VQA_ROWS]
    write_json(val_root / ANNOTATIONS, {"annotations": rows})
    assert grade(VAL, VAL.questions(val_root)[1], "Two").value == 0


def test_val_metrics_by_answer_type_and_question_type(val_root):
    file = answered(val_root, {262144005: "Yes", 262144006: "3"})
    found = score_answers("vqav2", val_root, file, "val2014")
    assert found["metrics"] == {
        "accuracy": pytest.approx(65),
        "accuracy/answer_type=number": pytest.approx(30),
        "accuracy/answer_type=other": None,
        "accuracy/answer_type=yes/no": 100,
        "accuracy/question_type=how many": pytest.approx(30),
        "accuracy/question_type=is it": 100,
        "accuracy/question_type=what is": None,
    }
    assert (found["n"], found["missing"]) == (2, 1)


def test_a_secret_split_is_not_scored(test_root):
    with pytest.raises(RequestError, match="answers of vqav2 test-dev2015 are not public"):
        score_answers("vqav2", test_root, answered(test_root, {262144005: "Yes"}))


def _annotation(row, **changes):
    row_id, image, _, answers, answer_type, question_type = row
    entry = {
        "question_id": row_id,
        "image_id": image,
        "answer_type": answer_type,
        "question_type": question_type,
        "answers": numbered(answers),
    }
    return {**entry, **changes}


FIRST, SECOND, THIRD = VQA_ROWS


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([_annotation(FIRST), _annotation(SECOND)], "entry 3: '393225000' is not in v2_mscoco"),
        (
            [_annotation(FIRST, image_id=7)],
            "entry 1: question 262144005 is about .* about '7'",
        ),
        ([*map(_annotation, VQA_ROWS), _annotation(FIRST, question_id=1)], "holds 1 .*example '1'"),
        (
            [_annotation(FIRST), _annotation(FIRST, answer_type="other")],
            "entry 2: another entry for '262144005'",
        ),
        ([_annotation(FIRST, answers=numbered(["yes"] * 9))], "entry 1: 9 answers"),
        ([_annotation(FIRST, answer_type=None)], "entry 1: field 'answer_type' is not text"),
        (["yes"], "entry 1: not an object"),
        (None, "does not hold a list of annotations"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(val_root, annotations, message):
    write_json(val_root / ANNOTATIONS, {"annotations": annotations})
    with pytest.raises(RequestError, match=message):
        VAL.questions(val_root)


@pytest.mark.parametrize("image", ["../x", "1" * 5000, "", -1, 1.5])
def test_an_image_that_is_no_number_is_refused(val_root, image):
    write_json(val_root / ANNOTATIONS, {"annotations": [_annotation(FIRST, image_id=image)]})
    entry = {"question_id": FIRST[0], "image_id": image, "question": FIRST[2]}
    write_json(val_root / QUESTIONS, {"questions": [entry]})
    with pytest.raises(RequestError, match="question 262144005 is about image"):
        VAL.questions(val_root)
