import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade
from raypipe.errors import RequestError
from tests.support.eval_roots import made_up, write_json

SCIENCEQA = benchmarks.load("scienceqa")


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "scienceqa")


def test_images_make_the_primary_metric(root):
    questions = SCIENCEQA.questions(root)
    assert [q.medium and q.medium.path for q in questions] == [None, "scienceqa/images/test/5/image.png"]
    assert questions[1].prompt.startswith("Which is red?\nA. the cup")
    metrics = SCIENCEQA.metrics([grade(SCIENCEQA, questions[0], "iron"), grade(SCIENCEQA, questions[1], "A")])
    assert (metrics["img_accuracy"], metrics["accuracy"], metrics["failed"]) == (100, 50, 50)
    assert metrics["accuracy/natural science"] == 0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pid_splits.json", {"test": ["4"]}, "'5' is not in the test split"),
        ("pid_splits.json", {"test": ["4", "5", "6"]}, "lacks 1 questions of the test split, .* '6'"),
        ("pid_splits.json", {"train": []}, "does not hold a 'test' split"),
        ("problems.json", {"4": {"choices": ["a", "b"], "answer": 1}}, "problem '5' lacks choices"),
        ("problems.json", {"4": {"choices": ["a"], "answer": 1}}, "problem '4' is not one of its choices"),
        ("problems.json", [], "does not hold one object a problem id"),
        ("llava_test_CQM-A.json", [{"id": "4"}], "row 1: no conversation"),
        ("llava_test_CQM-A.json", {}, "array of rows"),
        ("llava_test_CQM-A.json", ["4"], "row 1: not an object"),
    ],
)
def test_files_that_do_not_fit_are_refused(root, file, content, message):
    write_json(root / "scienceqa" / file, content)
    with pytest.raises(RequestError, match=message):
        SCIENCEQA.questions(root)


def test_the_same_question_twice_is_refused(root):
    path = root / "scienceqa/llava_test_CQM-A.json"
    rows = json.loads(path.read_text())
    write_json(path, [*rows, rows[0]])
    with pytest.raises(RequestError, match="row 3: '4' is not in the test split"):
        SCIENCEQA.questions(root)
