import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.report.score import score_verdicts
from tests.support.eval_roots import VIDEO_FOLDERS, made_up, write_json

PLACE = "GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA"
MSVD = benchmarks.load("msvd_qa")


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "msvd_qa")


@pytest.mark.parametrize("name", VIDEO_FOLDERS)
def test_answers_are_joined_by_id_and_videos_found(name, tmp_path):
    questions = benchmarks.load(name).questions(made_up(tmp_path, name))
    folder, videos, prefix = VIDEO_FOLDERS[name]
    stem = f"GPT_Zero_Shot_QA/{folder}/{videos}/{prefix}"
    assert [(q.row_id, q.reference, q.category, q.medium.path) for q in questions] == [
        ("v_a_1", "running", "3", f"{stem}a.mkv"),
        ("v_a_2", "man", "3", f"{stem}a.mkv"),
        ("v_b_1", "red", "4", f"{stem}b.mp4"),  # a video that is not there keeps its usual name
    ]


def test_extensions_are_tried_in_the_order_of_the_reference(root):
    for extension in ("webm", "gif", "mov", "avi"):
        (root / PLACE / f"videos/b.{extension}").write_bytes(b"")
        assert MSVD.questions(root)[2].medium.path.endswith(f"videos/b.{extension}")


@pytest.mark.parametrize("name", ["../b", "/b", "", "x/../../b", "..\\b", "b\0"])
def test_a_video_may_not_leave_its_folder(root, name):
    write_json(
        root / PLACE / "test_q.json", [{"question_id": "v_b_1", "video_name": name, "question": "what"}]
    )
    with pytest.raises(RequestError, match=r"row 1: medium .* is not a name inside"):
        MSVD.questions(root)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("test_a.json", lambda rows: rows.pop(), "no answer to 'v_a_1' in test_a.json"),
        ("test_q.json", lambda rows: rows.pop(), "answers 1 questions .* for example 'v_b_1'"),
        ("test_a.json", lambda rows: rows.append({**rows[0], "answer": "blue"}), "row 4: another answer"),
        ("test_q.json", lambda rows: rows.append(rows[0]), "question 'v_a_1' is there twice"),
        ("test_q.json", lambda rows: rows[1].pop("question"), "row 2: field 'question' is missing"),
        ("test_q.json", lambda rows: rows[1].update(question=None), "row 2: field 'question' is not text"),
    ],
)
def test_files_that_disagree_are_refused(root, file, change, message):
    rows = json.loads((root / PLACE / file).read_text())
    change(rows)
    write_json(root / PLACE / file, rows)
    with pytest.raises(RequestError, match=message):
        MSVD.questions(root)


def test_a_name_longer_than_any_file_is_a_video_that_is_not_there(root):
    rows = json.loads((root / PLACE / "test_q.json").read_text())
    write_json(root / PLACE / "test_q.json", [{**row, "video_name": "b" * 5000} for row in rows])
    assert MSVD.questions(root)[0].medium.path.endswith("bbb.mp4")


def test_the_medium_found_is_part_of_the_id(root):
    before = MSVD.questions(root)
    (root / PLACE / "videos/a.mkv").rename(root / PLACE / "videos/a.avi")
    after = MSVD.questions(root)
    assert [b.id == a.id for b, a in zip(before, after, strict=True)] == [False, False, True]


def test_an_unknown_benchmark_gets_the_nearest_name():
    with pytest.raises(RequestError) as fault:
        benchmarks.load("msvdqa")
    assert "did you mean 'msvd_qa'?" in fault.value.remedy


def test_a_judged_benchmark_has_no_rule(root):
    with pytest.raises(RequestError, match="judged"):
        benchmarks.grade(MSVD, MSVD.questions(root)[0], "running")


def test_unreadable_verdicts_missing_ones_and_unreadable_scores_are_apart(root):
    write_json(root / "results.json", {"v_a_1": [{"pred": "yes", "score": "4.8"}], "v_a_2": [{"pred": None}]})
    found = score_verdicts("msvd_qa", root, [root / "results.json"])
    assert found["metrics"]["accuracy"] == 100
    assert found["metrics"]["score"] is None  # the reference cannot read it either, and counts it as 0
    assert (found["n"], found["missing"]) == (1, 2)
    assert found["outcomes"] == {"judge_failed": 1, "judge_unreadable": 1, "ok": 1}


def test_one_file_a_question_keeps_dots_in_its_id(root):
    rows = json.loads((root / PLACE / "test_q.json").read_text())
    answers = json.loads((root / PLACE / "test_a.json").read_text())
    for row in (*rows, *answers):
        row["question_id"] = row["question_id"].replace("v_a", "v_a.b")
    write_json(root / PLACE / "test_q.json", rows)
    write_json(root / PLACE / "test_a.json", answers)
    write_json(
        root / "gpt/v_a.b_1.json", [{"pred": "no", "score": 4.8}, {"q": "what is he doing ", "a": "running"}]
    )
    found = score_verdicts("msvd_qa", root, [root / "gpt"])
    assert (found["n"], found["extra"], found["metrics"]["score"]) == (1, 0, 4)


def test_a_folder_without_verdicts_is_refused(root):
    with pytest.raises(RequestError, match=r"no verdict in .*videos"):
        score_verdicts("msvd_qa", root, [root / PLACE / "videos"])


def test_a_verdict_on_another_question_is_refused(root):
    write_json(
        root / "results.json", {"v_a_1": [{"pred": "no", "score": 4}, {"q": "who runs", "a": "running"}]}
    )
    with pytest.raises(RequestError, match="'v_a_1' was given against 'who runs'"):
        score_verdicts("msvd_qa", root, [root / "results.json"])


def test_where_the_data_are_had_is_said(tmp_path):
    with pytest.raises(RequestError) as fault:
        MSVD.questions(tmp_path)
    assert PLACE in fault.value.remedy
