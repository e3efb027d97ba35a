import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.report.score import score_answers
from tests.support.eval_root_vqa import ONE_WORD, TEXT_ROWS
from tests.support.eval_roots import made_up, write_json, write_lines

TEXTVQA = benchmarks.load("textvqa")
QUESTIONS = "textvqa/llava_textvqa_val_v051_ocr.jsonl"
TRUTH = "textvqa/TextVQA_0.5.1_val.json"


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "textvqa")


def test_questions_of_one_image_are_told_apart_by_wording(root):
    questions = TEXTVQA.questions(root)
    assert [q.row_id for q in questions] == ["0a1b", "0a1b", "9f8e"]
    assert [json.loads(q.reference)[0] for q in questions] == ["stop", "4", "unanswerable"]
    assert questions[0].question == "What is  written on the sign?"
    assert questions[0].medium.path == "textvqa/train_images/0a1b.jpg"
    assert questions[2].prompt == f"Who wrote it?\nReference OCR token: {ONE_WORD}"  # though there is none


def test_answers_are_joined_by_id_and_prompt(root):
    prompts = [q.prompt for q in TEXTVQA.questions(root)]
    replies = [("0a1b", prompts[1], "Four."), ("0a1b", prompts[0], "Stop 4-way"), ("0a1b", "Why?", "stop")]
    rows = [{"question_id": i, "prompt": prompt, "text": text} for i, prompt, text in replies]
    write_lines(root / "answers.jsonl", rows)
    found = score_answers("textvqa", root, root / "answers.jsonl")
    assert found["metrics"] == {"accuracy": pytest.approx((100 + 30) / 2)}
    assert (found["n"], found["missing"], found["extra"]) == (2, 1, 1)


def test_an_answer_without_prompt_is_not_guessed_at(root):
    write_lines(root / "answers.jsonl", [{"question_id": "0a1b", "text": "stop"}])
    with pytest.raises(RequestError, match="none of the 1 rows"):
        score_answers("textvqa", root, root / "answers.jsonl")


def entry(image, text, answers, **changes):
    return {"image_id": image, "question": text, "answers": answers, **changes}


WHOLE = [entry(image, text, answers) for image, text, _, answers in TEXT_ROWS]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE[:2], "line 3: 'who wrote it.*' on '9f8e' is not in"),
        (
            [*WHOLE, entry("0a1b", "Why?", ["x"] * 10)],
            "holds 1 questions that .* for example 'why\\?' on '0a1b'",
        ),
        ([*WHOLE, entry("9f8e", "who  WROTE it?", ["x"] * 10)], "entry 4: another entry for 'who wrote"),
        ([entry("0a1b", "Why?", ["x"] * 9)], "entry 1: 9 answers"),
        ([entry("0a1b", None, ["x"] * 10)], "entry 1: field 'question' is not text"),
        (["x"], "entry 1: not an object"),
        ({}, "does not hold a list of data"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_refused(root, data, message):
    write_json(root / TRUTH, {"data": data})
    with pytest.raises(RequestError, match=message):
        TEXTVQA.questions(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": f"Who wrote it?{ONE_WORD}"}, "second line of the text is not 'Reference OCR token:'"),
        ({"text": f"Who?\nReference OCR token: a\nb{ONE_WORD}"}, "second line of the text"),
        ({"text": "Who wrote it?\nReference OCR token: "}, "line 1: the text does not end in"),
        ({"image": "other.jpg"}, "line 1: other.jpg is not image '9f8e'"),
        ({"image": "../9f8e.jpg"}, "line 1: medium '../9f8e.jpg' is not a name inside"),
        ({"question_id": [1]}, "line 1: field 'question_id' is not text"),
    ],
)
def test_a_question_file_that_does_not_fit_is_refused(root, row, message):
    last = json.loads((root / QUESTIONS).read_text().splitlines()[2])
    write_lines(root / QUESTIONS, [{**last, **row}])
    with pytest.raises(RequestError, match=message):
        TEXTVQA.questions(root)
