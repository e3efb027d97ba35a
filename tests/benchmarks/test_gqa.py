import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade
from raypipe.errors import RequestError
from tests.support.eval_roots import made_up, write_json

GQA = benchmarks.load("gqa")
TRUTH = "gqa/data/questions1.2/testdev_balanced_questions.json"


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "gqa")


def test_binary_open_and_structural_types(root):
    questions = GQA.questions(root)
    replies = ["No.", "a kite", "LEFT"]
    graded = [grade(GQA, q, reply) for q, reply in zip(questions, replies, strict=True)]
    metrics = GQA.metrics(graded)
    assert metrics == {
        "accuracy": pytest.approx(200 / 3),
        "binary": 100,
        "open": 0,
        "accuracy/choose": 100,
        "accuracy/query": 0,
        "accuracy/verify": 100,
        "accuracy/semantic=attr": 100,
        "accuracy/semantic=rel": 0,
        "accuracy/steps=1": 0,  # "query: name" is no step
        "accuracy/steps=2": 100,
        "accuracy/words=3": 100,
        "accuracy/words=5": 0,
        "accuracy/words=9": 100,
    }
    assert questions[0].medium.path == "gqa/data/images/n1.jpg"


def test_the_other_place_of_the_truth(root):
    (root / TRUTH).rename(root / "gqa/data/testdev_balanced_questions.json")
    assert GQA.missing_data(root) is None
    assert len(GQA.questions(root)) == 3


def test_facets_that_the_truth_lacks_are_left_out(root):
    truth = json.loads((root / TRUTH).read_text())
    for entry in truth.values():
        del entry["semantic"], entry["types"]["semantic"]
    write_json(root / TRUTH, truth)
    assert [q.tags for q in GQA.questions(root)] == [("words=3",), ("words=5",), ("words=9",)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth.pop("201"), "'201' is not in"),
        (lambda truth: truth.update({"7": truth["201"]}), "holds 1 questions .* for example '7'"),
        (lambda truth: truth["201"].update(question="Is it dark?"), "question 201 is 'Is it overcast"),
        (lambda truth: truth["201"].update(imageId="n9"), "on n9 in"),
        (lambda truth: truth["201"].pop("answer"), "question 201: field 'answer' is missing"),
        (lambda truth: truth["201"].update(semantic="select"), "'semantic' is not a list of steps"),
        (lambda truth: truth["201"].update(semantic=[{}]), "field 'operation' is missing"),
        (lambda truth: truth["201"].pop("types"), "field 'structural' is missing"),
    ],
)
def test_files_that_disagree_are_refused(root, change, message):
    truth = json.loads((root / TRUTH).read_text())
    change(truth)
    write_json(root / TRUTH, truth)
    with pytest.raises(RequestError, match=message):
        GQA.questions(root)
