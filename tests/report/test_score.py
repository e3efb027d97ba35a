"""``raypipe score``: stored answers and stored verdicts, joined by id and content."""

import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.report.score import score_answers, score_verdicts
from tests.support.eval_roots import made_up, write_json, write_lines


@pytest.fixture
def gqa(tmp_path):
    return made_up(tmp_path, "gqa")


@pytest.fixture
def msvd(tmp_path):
    return made_up(tmp_path, "msvd_qa")


def _answers(root, name, texts):
    """Answer rows as the reference writes them, by question id."""
    questions = benchmarks.load(name).questions(root)
    return [{"question_id": q.row_id, "prompt": q.prompt, "text": texts[q.row_id]} for q in questions]


def _scored(root, name, rows):
    path = root / "answers.jsonl"
    write_lines(path, rows)
    return score_answers(name, root, path)


RIGHT = {"201": "No", "202": "kite", "203": "left"}


def test_order_of_the_answers_does_not_matter(gqa):
    rows = _answers(gqa, "gqa", {**RIGHT, "202": "boat"})
    found = _scored(gqa, "gqa", rows)
    assert found["metrics"]["accuracy"] == pytest.approx(200 / 3)
    assert found["primary"] == "accuracy"
    assert (found["n"], found["missing"], found["duplicate"], found["extra"]) == (3, 0, 0, 0)
    assert _scored(gqa, "gqa", rows[::-1]) == found
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_missing_extra_and_duplicate_rows_are_counted(gqa):
    rows = _answers(gqa, "gqa", RIGHT)
    rows = [
        {**rows[0], "text": "Yes"},  # an older attempt; the last one counts
        rows[0],
        {**rows[1], "prompt": "Another question?"},
        {**rows[1], "question_id": "7"},
    ]
    found = _scored(gqa, "gqa", rows)
    assert found["metrics"]["accuracy"] == 100
    assert (found["n"], found["missing"], found["duplicate"], found["extra"]) == (1, 2, 1, 2)
    assert found["metrics"]["open"] is None
    assert found["intervals"]["open"] == [None, None]


def test_prompts_are_compared_without_tag_and_with_or_without_instruction(tmp_path):
    root = made_up(tmp_path, "scienceqa")
    rows = _answers(root, "scienceqa", {"4": "B", "5": ""})
    rows[1]["prompt"] = "<image>\n" + rows[1]["prompt"].rsplit("\n", 1)[0]
    del rows[0]["prompt"]
    found = _scored(root, "scienceqa", rows)
    assert (found["metrics"]["img_accuracy"], found["metrics"]["failed"]) == (0, 50)
    assert found["outcomes"] == {"empty": 1, "ok": 1}


def test_answers_to_something_else_are_refused(gqa):
    with pytest.raises(RequestError, match="none of the 1 rows"):
        _scored(gqa, "gqa", [{"question_id": "1", "prompt": "x", "text": "y"}])
    with pytest.raises(RequestError, match="none of the 0 rows"):
        _scored(gqa, "gqa", [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question_id": "201"', "line 2: Expecting"),
        ("[]", "line 2: not an object"),
        ('{"question_id": "201"}', "line 2: field 'text' is missing"),
        ('{"question_id": "201", "text": null}', "line 2: field 'text' is not text: null"),
        ('{"question_id": ["201"], "text": "no"}', "line 2: field 'question_id' is not text"),
        ('{"question_id": "201", "text": "no", "prompt": ["x"]}', "line 2: field 'prompt' is not text"),
        ('{"question_id": "201", "text": NaN}', "line 2: NaN is not a JSON value"),
    ],
)
def test_a_damaged_answer_file_is_named_with_its_line(gqa, line, message):
    path = gqa / "answers.jsonl"
    path.write_text("\n" + line)
    with pytest.raises(RequestError, match=message) as fault:
        score_answers("gqa", gqa, path)
    assert str(path) in fault.value.message


def test_a_file_that_is_not_text_is_named_with_its_line(gqa):
    row = b'{"question_id": "1", "text": "x"}\n'
    (gqa / "answers.jsonl").write_bytes(2 * row + b"\xff")
    with pytest.raises(RequestError, match="line 3: not UTF-8"):
        score_answers("gqa", gqa, gqa / "answers.jsonl")


def test_a_missing_file_is_named(gqa):
    with pytest.raises(RequestError, match=r"no such file: .*none\.jsonl"):
        score_answers("gqa", gqa, gqa / "none.jsonl")


def test_open_answers_need_a_judge(msvd):
    with pytest.raises(RequestError, match="open answers") as fault:
        score_answers("msvd_qa", msvd, msvd / "merge.jsonl")
    assert "--verdicts" in fault.value.remedy


def _verdict(pred, score, question=None, answer=None):
    return [{"pred": pred, "score": score}, {"q": question, "a": answer, "pred": "a reply"}]


def test_results_json(msvd):
    path = msvd / "results.json"
    write_json(
        path,
        {
            "v_a_2": _verdict("no", 1, "who runs", "man"),
            "v_a_1": _verdict("Yes", 4.8, "what is he doing", "running"),
            "v_b_1": _verdict("maybe", 3),
            "v_old_1": _verdict("yes", 5),
        },
    )
    found = score_verdicts("msvd_qa", msvd, [path])
    assert (found["metrics"]["accuracy"], found["metrics"]["score"]) == (50, 2.5)
    assert (found["n"], found["missing"], found["duplicate"], found["extra"]) == (2, 1, 0, 1)
    assert found["outcomes"] == {"judge_unreadable": 1, "ok": 2}


def test_a_folder_of_verdicts_and_a_file_over_it(msvd):
    folder = msvd / "gpt"
    write_json(folder / "v_a_1.json", _verdict("yes", 5))
    write_json(folder / "v_b_1.json", _verdict("no", "4.5"))
    write_json(msvd / "results.json", {"v_a_1": _verdict("no", 0), "v_a_2": "not a verdict"})
    found = score_verdicts("msvd_qa", msvd, [folder, msvd / "results.json"])
    assert found["metrics"]["accuracy"] == 0
    assert found["metrics"]["score"] == 0  # of one verdict: "4.5" is no score
    assert (found["n"], found["missing"], found["duplicate"]) == (2, 1, 1)


def test_verdicts_against_wrong_answers_are_refused(msvd):
    write_json(msvd / "results.json", {"v_a_1": _verdict("no", 0, "what is he doing", "red")})
    with pytest.raises(RequestError, match="'v_a_1' was given against 'red'") as fault:
        score_verdicts("msvd_qa", msvd, [msvd / "results.json"])
    assert "several GPUs" in fault.value.remedy


def test_verdicts_that_do_not_belong_are_refused(msvd, gqa):
    write_json(msvd / "results.json", {"v_other": _verdict("yes", 5)})
    with pytest.raises(RequestError, match="none of the 1 rows"):
        score_verdicts("msvd_qa", msvd, [msvd / "results.json"])
    write_json(msvd / "results.json", [])
    with pytest.raises(RequestError, match="does not hold verdicts"):
        score_verdicts("msvd_qa", msvd, [msvd / "results.json"])
    with pytest.raises(RequestError, match="by a rule"):
        score_verdicts("gqa", gqa, [msvd / "results.json"])
