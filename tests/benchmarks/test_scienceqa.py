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
    assert metrics["accuracy/subject=natural science"] == 0


def test_facets_of_the_official_tool(root):
    questions = SCIENCEQA.questions(root)
    metrics = SCIENCEQA.metrics([grade(SCIENCEQA, q, "A") for q in questions])
    assert {name.removeprefix("accuracy/"): value for name, value in metrics.items() if "=" in name} == {
        "subject=natural science": 0,
        "subject=social science": 100,
        "context=image": 100,
        "context=text": 0,
        "grade=1-6": 0,
        "grade=7-12": 100,
        "topic=physics": 0,
        "topic=economics": 100,
    }


@pytest.mark.parametrize(
    ("change", "contexts"),
    [
        ({"4": {"hint": ""}}, [("context=none",), ("context=image",)]),
        ({"5": {"hint": "Look."}}, [("context=text",), ("context=image", "context=text")]),
        ({"4": {"hint": None}, "5": {"hint": None}}, [("context=none",), ("context=image",)]),
    ],
)
def test_contexts(root, change, contexts):
    path = root / "scienceqa/problems.json"
    problems = json.loads(path.read_text())
    for row_id, fields in change.items():
        problems[row_id] |= fields
    write_json(path, problems)
    found = [tuple(t for t in q.tags if t.startswith("context")) for q in SCIENCEQA.questions(root)]
    assert found == contexts


def test_problems_without_facets_have_none_that_is_not_known(root):
    write_json(
        root / "scienceqa/problems.json",
        {"4": {"choices": ["a", "b"], "answer": 1}, "5": {"choices": ["a", "b"], "answer": 0}},
    )
    assert [q.tags for q in SCIENCEQA.questions(root)] == [(), ("context=image",)]


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("B", "B"),
        ("B.", "FAILED"),
        ("B. the pan", "B"),
        ("B is right", "FAILED"),
        ("The answer is B.", "B"),
        ("The answer is B. The answer is B.", "FAILED"),
        ("The answer is Z.", "Z"),  # no option, so wrong; older code drew one at random
        ("b", "FAILED"),
        ("F. no option", "FAILED"),
        ("", "FAILED"),
    ],
)
def test_what_is_read_from_a_reply(root, reply, read):
    question = SCIENCEQA.questions(root)[0]
    found = grade(SCIENCEQA, question, reply)
    assert (found.parsed, found.value) == (read, float(read == "B"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pid_splits.json", {"test": ["4"]}, "'5' is not in pid_splits.json"),
        ("pid_splits.json", {"test": ["4", "5", "6"]}, "holds 1 questions that .* does not ask, .* '6'"),
        ("pid_splits.json", {"train": []}, "does not hold a 'test' split"),
        ("problems.json", {"4": {"choices": ["a", "b"], "answer": 1}}, "problem '5' lacks choices"),
        ("problems.json", {"4": {"choices": ["a", "b"], "answer": True}}, "problem '4' lacks choices"),
        ("problems.json", {"4": {"choices": ["a"], "answer": 1}}, "problem '4' is not one of its choices"),
        (
            "problems.json",
            {"4": {"choices": ["a", "b"], "answer": 1, "grade": "grade13"}},
            "problem '4': the grade is not grade1 to grade12: 'grade13'",
        ),
        ("problems.json", {"4": {"choices": ["a", "b"], "answer": 1, "hint": ["x"]}}, "field 'hint' is not"),
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
    with pytest.raises(RequestError, match="row 3: '4' is asked a second time"):
        SCIENCEQA.questions(root)
