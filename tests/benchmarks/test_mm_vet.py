import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.grading.grades import read_grade
from raypipe.report.score import score_verdicts
from tests.support.eval_roots import made_up, write_json

BENCHMARK = benchmarks.load("mm_vet")


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "mm_vet")


def _entry(*scores, contents=None):
    said = contents or [str(score) for score in scores]
    return {"model": ["gpt-4"] * len(scores), "content": said, "score": list(scores)}


def _scored(root, *files):
    paths = []
    for number, content in enumerate(files):
        paths.append(root / f"grade{number}.json")
        write_json(paths[-1], content)
    return score_verdicts("mm_vet", root, paths)


def test_references_and_capabilities_are_joined_by_id(root):
    questions = BENCHMARK.questions(root)
    assert [(q.row_id, q.reference) for q in questions] == [
        ("0", "7 <OR> seven"),
        ("1", "the pupil"),
        ("2", "3 <AND> 4"),
    ]
    assert (
        questions[0].tags
        == questions[2].tags
        == (
            "capability=math",
            "capability=ocr",
            "capabilities=math+ocr",
        )
    )
    assert questions[2].medium.path == "mm-vet/images/v1_2.jpg"
    assert (BENCHMARK.pad, BENCHMARK.max_new_tokens) == (False, 1024)


def test_without_the_official_file_there_is_no_reference_but_a_score(root):
    ids = [q.id for q in BENCHMARK.questions(root)]
    (root / "mm-vet/mm-vet.json").unlink()
    questions = BENCHMARK.questions(root)
    assert [q.id for q in questions] == ids
    assert {(q.reference, q.tags) for q in questions} == {("", ())}
    found = _scored(root, {"v1_0": _entry(0.3), "v1_1": _entry(1.0), "v1_2": _entry(0.0)})
    assert found["metrics"] == {"total": pytest.approx(130 / 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth.pop("v1_1"), "line 2: 'v1_1' is not in mm-vet.json"),
        (lambda truth: truth.update(v1_9=truth["v1_0"]), "holds 1 questions that .* for example 'v1_9'"),
        (lambda truth: truth["v1_0"].update(imagename="v1_2.jpg"), "v1_0 is 'What is the sum.' on v1_0.png"),
        (lambda truth: truth["v1_0"].update(question="Who?"), "and 'Who.' on v1_0.png in mm-vet.json"),
        (
            lambda truth: truth["v1_0"].update(capability=[]),
            "v1_0: field 'capability' is not a list of names",
        ),
        (lambda truth: truth["v1_0"].update(answer=None), "v1_0: field 'answer' is not text"),
        (lambda truth: truth.update(v1_0=[]), "does not hold one object a question id"),
    ],
)
def test_files_that_disagree_are_refused(root, change, message):
    path = root / "mm-vet/mm-vet.json"
    truth = json.loads(path.read_text())
    change(truth)
    write_json(path, truth)
    with pytest.raises(RequestError, match=message):
        BENCHMARK.questions(root)


def test_an_id_that_is_there_twice_is_refused(root):
    (root / "mm-vet/mm-vet.json").unlink()
    with (root / "mm-vet/llava-mm-vet.jsonl").open("a") as file:
        file.write('{"question_id": 1, "image": "v1_2.jpg", "text": "Who?"}')
    with pytest.raises(RequestError, match="line 4: question 1 came before"):
        BENCHMARK.questions(root)


def test_total_and_capabilities(root):
    found = _scored(root, {"v1_2": _entry(0.5), "v1_1": _entry(1.0), "v1_0": _entry(0.3)})
    metrics = found["metrics"]
    assert metrics == {
        "total": pytest.approx(60),
        "total/capability=math": pytest.approx(40),
        "total/capability=ocr": pytest.approx(40),
        "total/capability=rec": pytest.approx(100),
        "total/capabilities=math+ocr": pytest.approx(40),
        "total/capabilities=rec": pytest.approx(100),
    }
    assert (found["primary"], found["n"], found["missing"], found["extra"]) == ("total", 3, 0, 0)


def test_runs_of_one_file_and_of_several_count_alike(root):
    one = {"v1_0": _entry(0.0, 0.3), "v1_1": _entry(1.0, 1.0), "v1_2": _entry(0.5, 0.8)}
    two = [{key: _entry(entry["score"][run]) for key, entry in one.items()} for run in (0, 1)]
    found = _scored(root, one)
    assert found == _scored(root, *two)
    assert [run["total"] for run in found["runs"]] == pytest.approx([50, 70])
    assert (found["metrics"]["total"], found["spread"]["total"]) == pytest.approx((60, 10))


def test_a_grading_that_stopped_midway_is_counted(root):
    found = _scored(root, {"v1_0": _entry(0.4, 0.6), "v1_1": _entry(1.0)})
    assert (found["n"], found["missing"]) == (2, 1)
    assert found["outcomes"] == {"judge_failed": 3, "ok": 3}
    assert [run["total"] for run in found["runs"]] == pytest.approx([70, 60])


@pytest.mark.parametrize("score", [1.1, -0.1, True, "0.5", None])
def test_a_grade_off_the_scale_is_unreadable(root, score):
    found = _scored(root, {"v1_0": _entry(score, contents=["what?"]), "v1_1": _entry(1.0)})
    assert found["metrics"]["total"] == 100
    assert found["outcomes"] == {"judge_failed": 1, "judge_unreadable": 1, "ok": 1}


def test_a_judge_that_gave_up_is_not_a_zero(root):
    found = _scored(
        root, {"v1_0": _entry(0.0, contents=["I cannot"]), "v1_1": _entry(0.0), "v1_2": _entry(1.0)}
    )
    assert found["metrics"]["total"] == 50
    assert found["outcomes"] == {"judge_unreadable": 1, "ok": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"v1_0": _entry(0.5, contents=["0.4"])}, "v1_0: the score is 0.5, and the judge wrote '0.4'"),
        ({"v1_0": {"score": 0.5}}, "v1_0: fields 'score' and 'content' are not both lists"),
        ({"v1_0": 0.5}, "does not hold one object"),
        ([], "does not hold one object"),
        ({"v1_7": _entry(0.5)}, "grades no question of mm_vet"),
    ],
)
def test_damaged_grades_are_refused(root, content, message):
    with pytest.raises(RequestError, match=message) as fault:
        _scored(root, content)
    assert "grade0.json" in fault.value.message


def test_extra_grades_are_counted(root):
    found = _scored(root, {"v1_0": _entry(0.5), "v1_7": _entry(1.0)})
    assert (found["metrics"]["total"], found["n"], found["extra"]) == (50, 1, 1)


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("0.3", 0.3),
        ("1.0 because", 1.0),
        ("1.1", None),
        ("nan", None),
        ("so 0.3", None),
        ("", None),
        (None, None),
    ],
)
def test_grades_are_read_as_the_evaluator_reads_them(reply, grade):
    assert read_grade(reply) == grade


def test_the_upload_holds_each_answer_in_order(root, tmp_path):
    questions = BENCHMARK.questions(root)
    replies = {q.id: f"réponse {q.row_id}" for q in reversed(questions)}
    (path,) = BENCHMARK.upload(root, questions, replies, tmp_path / "results/model.json")
    assert path.read_text() == json.dumps({f"v1_{n}": f"réponse {n}" for n in range(3)}, indent=2)


def test_an_upload_without_an_answer_is_refused_before_it_is_written(root, tmp_path):
    questions = BENCHMARK.questions(root)
    replies = {q.id: "" for q in questions[1:]}
    with pytest.raises(RequestError, match="1 of 3 questions of mm_vet have no answer, for example '0'"):
        BENCHMARK.upload(root, questions, replies, tmp_path / "out/model.json")
    assert not (tmp_path / "out").exists()
