import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade, scores
from raypipe.errors import RequestError
from raypipe.grading.answers import first_yes_or_no
from raypipe.records import Outcome
from tests.support.eval_root_choice import MME_ROWS
from tests.support.eval_roots import made_up

MME = benchmarks.load("mme")
RELEASE = "MME/MME_Benchmark_release_version"
# in the order of MME_ROWS; wrong: the second on existence/001, the second on artwork/9
REPLIES = ["Yes", "yes.", "Yes", "No", "no", "No", "Yes, it is", "No"]


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "mme")


def _graded(root, replies=REPLIES):
    return [grade(MME, q, reply) for q, reply in zip(MME.questions(root), replies, strict=True)]


def test_tasks_are_accuracy_and_pairs(root):
    metrics = MME.metrics(_graded(root))
    assert metrics["accuracy/existence"] == 75
    assert metrics["accuracy_plus/existence"] == 50  # 002 has both, and its rows are not neighbours
    assert metrics["score/existence"] == 125
    assert (metrics["score/artwork"], metrics["score/code_reasoning"]) == (50, 200)
    assert metrics["perception"] == 175
    assert metrics["cognition"] == 200
    assert (metrics["accuracy"], metrics["accuracy_plus"]) == (75, 50)


def test_a_pair_with_a_missing_answer_is_missing(root):
    graded = _graded(root)
    graded[1] = benchmarks.ungraded(MME.questions(root)[1], Outcome.MEDIUM_BAD)
    found = {s.metric: s for s in scores(MME, graded)}
    assert found["accuracy_plus/existence"].value == 0
    assert (found["accuracy_plus/existence"].n, found["accuracy_plus/existence"].missing) == (1, 1)
    assert found["score/existence"].value == pytest.approx(100 * 2 / 3)


def test_a_task_of_which_nothing_is_known_makes_the_sum_unknown(root):
    graded = _graded(root)
    graded[3] = benchmarks.ungraded(MME.questions(root)[3], Outcome.FAILED)
    found = {s.metric: s for s in scores(MME, graded)}
    assert (found["perception"].n, found["score/artwork"].n) == (0, 0)
    assert found["perception"].missing == 6
    assert found["cognition"].value == 200


def test_bounds_are_those_of_the_tasks(root):
    bounds = {m.name: m.bounds for m in MME.measure(benchmarks.tabulate(_graded(root)))}
    assert bounds["perception"] == (0, 400)
    assert bounds["cognition"] == bounds["score/existence"] == (0, 200)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("YES", "yes"),
        ("no", "no"),
        ("No, there is none", "no"),
        ("eyes", "yes"),
        ("nope", "no"),
        ("not at all", "no"),
        ("know", "no"),
        ("no y", "no"),
        ("It is no", "FAILED"),
        ("", "FAILED"),
        ("n", "FAILED"),
        ("nyes", "yes"),
    ],
)
def test_four_characters_are_read(reply, label):
    assert first_yes_or_no(reply) == label


def test_the_calculators_files(root, tmp_path):
    questions = MME.questions(root)
    replies = {q.id: reply for q, reply in zip(questions, REPLIES, strict=True)}
    replies[questions[0].id] = "Yes\tor\nno\r"
    files = MME.upload(root, questions, replies, tmp_path / "out")
    assert sorted(f.name for f in files) == ["artwork.txt", "code_reasoning.txt", "existence.txt"]
    assert (tmp_path / "out/existence.txt").read_text() == (
        "001.txt\tIs there a kite in the image? Please answer yes or no.\tYes\tYes or no\n"
        "001.txt\tIs there a boat in the image? Please answer yes or no.\tNo\tYes\n"
        "002.txt\tIs there a pan in the image?  Please answer yes or no.\tYes\tyes.\n"
        "002.txt\tIs there a cup in the image? Please answer yes or no.\tNo\tNo\n"
    )


def test_a_calculator_of_the_files_finds_the_same_scores(root, tmp_path):
    questions = MME.questions(root)
    replies = {q.id: reply for q, reply in zip(questions, REPLIES, strict=True)}
    metrics = MME.metrics(_graded(root))
    for file in MME.upload(root, questions, replies, tmp_path / "out"):
        rows = [line.split("\t") for line in file.read_text().splitlines()]
        right = [answer.lower() in said.lower()[:4] for _, _, answer, said in rows]
        pairs = [all(right[i : i + 2]) for i in range(0, len(right), 2)]
        assert all(rows[i][0] == rows[i + 1][0] for i in range(0, len(rows), 2))
        score = 100 * sum(right) / len(right) + 100 * sum(pairs) / len(pairs)
        assert metrics[f"score/{file.stem}"] == pytest.approx(score)


def test_an_unanswered_question_is_not_uploaded(root, tmp_path):
    questions = MME.questions(root)
    replies = {q.id: "Yes" for q in questions[1:]}
    with pytest.raises(RequestError, match="1 of 8 questions of mme have no answer"):
        MME.upload(root, questions, replies, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("existence/001.txt", "Is it? Please answer yes or no.\tYes\n", "does not ask 'Is there a kite"),
        (
            "existence/001.txt",
            "Is it? Please answer yes or no.\tperhaps\n",
            "001.txt, line 1: the answer is nei",
        ),
        ("existence/001.txt", "no tab here\n", "001.txt, line 1: the answer is neither yes nor no: ''"),
        ("artwork/questions_answers_YN/9.txt", b"\xff\n", "9.txt, line 1: not UTF-8"),
        ("existence/002.txt", None, "no such file: .*questions_answers_YN/002.txt"),
    ],
)
def test_answers_that_do_not_fit_are_refused(root, file, text, message):
    path = root / RELEASE / file
    if text is None:
        path.unlink()
    elif isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text)
    with pytest.raises(RequestError, match=message):
        MME.questions(root)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (1, {"question_id": "dancing/1.jpg", "image": "dancing/1.jpg"}, "line 1: 'dancing' is none"),
        (1, {"question_id": "existence/../../x.jpg", "image": "existence/../../x.jpg"}, "not a name inside"),
        (2, {"question_id": "existence/001.jpg"}, "line 2: question 'existence/001.jpg' is about"),
        (8, None, "1 questions on code_reasoning/1.png, and 2 in the release"),
    ],
)
def test_questions_that_do_not_fit_are_refused(root, number, change, message):
    path = root / "MME/llava_mme.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(MME_ROWS)
    rows = [{**row, **(change or {})} if n == number else row for n, row in enumerate(rows, 1)]
    if change is None:
        del rows[number - 1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RequestError, match=message):
        MME.questions(root)
