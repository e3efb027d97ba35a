import json

import numpy as np
import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.grading.reviews import as_marks, read_marks, relative, rounded
from raypipe.report.score import score_verdicts
from tests.support.eval_root_judged import LLAVA_BENCH_ROWS
from tests.support.eval_roots import made_up, write_lines

BENCHMARK = benchmarks.load("llava_bench")
PLACE = "llava-bench-in-the-wild"
MARKS = {0: [8.0, 4.0], 1: [9.0, 6.0], 5: [10.0, 10.0], 4: [8.0, 9.5]}


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "llava_bench")


def _review(question_id, category, marks, **more):
    return {
        "question_id": question_id,
        "answer1_id": f"ref{question_id}",
        "category": f"llava_bench_{category}",
        "tuple": marks,
        **more,
    }


def _reviews(**changed):
    rows = [
        _review(i, c, MARKS[i], content=f"{MARKS[i][0]} {MARKS[i][1]}\nWell.")
        for i, _, c, _, _ in LLAVA_BENCH_ROWS
    ]
    return [{**row, **changed} if row["question_id"] == 1 else row for row in rows]


def _scored(root, *files):
    paths = []
    for number, rows in enumerate(files):
        paths.append(root / f"reviews{number}.jsonl")
        write_lines(paths[-1], rows)
    return score_verdicts("llava_bench", root, paths)


def test_references_and_contexts_are_joined_by_id_and_image(root):
    questions = BENCHMARK.questions(root)
    assert [(q.row_id, q.category, q.reference) for q in questions] == [
        (str(i), category, answer) for i, _, category, _, answer in LLAVA_BENCH_ROWS
    ]
    assert questions[0].extra == {"context": "A bridge.", "answer_id": "ref0"}
    assert questions[2].extra["context"] == "A man with a bucket.\nHe holds a rod."
    assert questions[2].medium.path == f"{PLACE}/images/002.jpg"
    assert (BENCHMARK.pad, BENCHMARK.max_new_tokens) == (False, 1024)


@pytest.mark.parametrize(
    ("file", "line", "changed", "message"),
    [
        ("answers_gpt4.jsonl", 0, {"question_id": 9}, "line 4: '4' is not in answers_gpt4.jsonl"),
        (
            "answers_gpt4.jsonl",
            3,
            {"prompt": "Who?"},
            "line 1: answers_gpt4.jsonl has no answer to 'What",
        ),
        ("answers_gpt4.jsonl", 3, {"question_id": 1}, "line 4: another entry for '1' came before"),
        ("answers_gpt4.jsonl", 3, {"text": None}, "line 4: field 'text' is not text"),
        ("context.jsonl", 0, {"image": "009.jpg"}, "line 3: 002.jpg is not described"),
        ("context.jsonl", 0, {"caption": ["a", 3]}, "line 1: field 'caption' is neither"),
        ("context.jsonl", 1, {"caption": None}, "line 2: field 'caption' is not text"),
        ("questions.jsonl", 1, {"category": None}, "line 2: field 'category' is not text"),
    ],
)
def test_files_that_disagree_are_refused(root, file, line, changed, message):
    path = root / PLACE / file
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    write_lines(path, [{**row, **changed} if n == line else row for n, row in enumerate(rows)])
    with pytest.raises(RequestError, match=message):
        BENCHMARK.questions(root)


def test_an_image_may_not_leave_its_folder(root):
    path = root / PLACE / "questions.jsonl"
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    write_lines(path, [{**row, "image": "../001.jpg"} for row in rows])
    write_lines(root / PLACE / "context.jsonl", [{"image": "../001.jpg", "caption": "A bridge."}])
    with pytest.raises(RequestError, match=r"line 1: medium '\.\./001.jpg' is not a name inside"):
        BENCHMARK.questions(root)


def test_answers_to_other_questions_are_refused(root):
    with (root / PLACE / "answers_gpt4.jsonl").open("a") as file:
        file.write('{"question_id": 7, "text": "Yes."}\n')
    with pytest.raises(RequestError, match=r"holds 1 questions that questions.jsonl does not ask, .* '7'"):
        BENCHMARK.questions(root)


def test_ratio_of_the_means_as_the_reference_prints_it(root):
    found = _scored(root, _reviews())
    metrics = found["metrics"]
    # means 8.75 and 7.375; conv 8 and 6.75
    assert (metrics["all"], metrics["reference_x10"], metrics["answer_x10"]) == (84.3, 87.5, 73.8)
    assert (metrics["all/conv"], metrics["all/detail"], metrics["all/complex"]) == (84.4, 66.7, 100.0)
    assert (metrics["reference_x10/conv"], metrics["answer_x10/conv"]) == (80.0, 67.5)
    assert (found["primary"], found["n"], found["missing"], found["extra"]) == ("all", 4, 0, 0)
    assert "runs" not in found


def test_the_means_are_rounded_before_their_ratio():
    # The third decimal decides the printed digit: 100 * 169/261 is 64.751, 100 * 5.633/8.7 is 64.747.
    assert round(100 * 338 / 522, 1) == 64.8
    assert relative(np.array([522.0, 338.0, 60.0])) == 64.7


def test_a_failed_review_has_no_value_and_is_counted(root):
    failed = _scored(root, _reviews(tuple=[-1, -1], content="I cannot say."))
    assert failed["metrics"]["all/detail"] is None
    assert failed["metrics"]["all"] == round(100 * 23.5 / 26, 1)
    assert (failed["n"], failed["missing"], failed["outcomes"]) == (3, 1, {"judge_unreadable": 1, "ok": 3})
    absent = _scored(root, [row for row in _reviews() if row["question_id"] != 1])
    assert absent["metrics"] == failed["metrics"]
    assert (absent["missing"], absent["outcomes"]) == (1, {"judge_failed": 1, "ok": 3})


def test_each_file_is_a_run(root):
    found = _scored(root, _reviews(), _reviews(tuple=[9.0, 3.0], content="9 3"))
    assert [run["all"] for run in found["runs"]] == [84.3, 75.7]  # 7.375 and 6.625 over 8.75
    assert found["metrics"]["all"] == pytest.approx(80.0)
    assert found["spread"]["all"] == pytest.approx(4.3)
    assert (found["n"], found["duplicate"], found["outcomes"]) == (4, 0, {"ok": 8})


def test_extra_and_repeated_reviews_are_counted(root):
    rows = [*_reviews(), _review(9, "conv", [1.0, 1.0]), _review(1, "detail", [9.0, 9.0])]
    found = _scored(root, rows)
    assert found["metrics"]["all/detail"] == 100.0  # the last one counts
    assert (found["n"], found["duplicate"], found["extra"]) == (4, 1, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"category": "llava_bench_conv"}, "line 2: the review of 1 has the category 'llava_bench_conv'"),
        ({"answer1_id": "ref0"}, "line 2: the review of 1 has the answer1_id 'ref0'"),
        ({"tuple": [9.0, 7.0]}, r"line 2: the tuple is \[9.0, 7.0\], and the judge wrote \[9.0, 6.0\]"),
        ({"tuple": "9 6"}, "line 2: field 'tuple' is missing or not a list"),
        ({"question_id": None}, "line 2: field 'question_id' is not text"),
    ],
)
def test_reviews_of_something_else_are_refused(root, changed, message):
    with pytest.raises(RequestError, match=message) as fault:
        _scored(root, _reviews(**changed))
    assert "reviews0.jsonl" in fault.value.message


def test_a_run_without_any_review_of_a_question_is_refused(root):
    with pytest.raises(RequestError, match=r"reviews1.jsonl reviews no question"):
        _scored(root, _reviews(), [_review(9, "conv", [1.0, 1.0])])


@pytest.mark.parametrize(
    ("pair", "marks"),
    [
        ([8, 9.5], (8.0, 9.5)),
        ([8.0, 0.0], (8.0, 0.0)),
        ([0.0, 8.0], None),
        ([-1, -1], None),
        ([8.0, 11.0], None),
        ([8.0], None),
        ([8.0, 9.0, 7.0], None),
        ([8.0, "9"], None),
        ([8.0, True], None),
        ([float("nan"), 8.0], None),
        ([8.0, 10**400], None),
    ],
)
def test_marks_are_two_numbers_of_the_scale(pair, marks):
    assert as_marks(pair) == marks


@pytest.mark.parametrize(
    ("reply", "marks"),
    [
        ("7 9\nAssistant 1 is brief.", (7.0, 9.0)),
        ("7,9", (7.0, 9.0)),
        ("7, 9", None),  # three pieces, as the reference splits
        ("Assistant 1: 7", None),
        ("7", None),
        ("", None),
        (None, None),
    ],
)
def test_marks_are_read_as_the_reference_reads_them(reply, marks):
    assert read_marks(reply) == marks


def test_rounding_is_pythons():
    found = rounded(np.array([64.35, 64.25, np.nan]), 1)
    assert found.tolist()[:2] == [64.3, 64.2]  # numpy gives 64.4 for the first
    assert np.isnan(found[2])


def test_reviews_name_their_questions_where_the_question_files_are_not_there(root, tmp_path_factory):
    bare = tmp_path_factory.mktemp("bare")
    path = root / "reviews.jsonl"
    write_lines(path, _reviews())
    joined = score_verdicts("llava_bench", root, [path])
    alone = score_verdicts("llava_bench", bare, [path])
    assert alone["metrics"] == joined["metrics"]
    assert alone["questions_missing"] == str(bare / PLACE / "questions.jsonl")
    assert "questions_missing" not in joined
