import base64
import subprocess
import sys
import time

import openpyxl
import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade, scores
from raypipe.errors import RequestError
from raypipe.records import Outcome
from tests.support.clips import number_of
from tests.support.eval_root_choice import drawn, mmbench_rows, write_table
from tests.support.eval_roots import made_up

MMBENCH = benchmarks.load("mmbench")
TABLE = "mmbench/mmbench_dev_20230712.tsv"


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "mmbench:20230712")


def _metrics(root, replies):
    questions = MMBENCH.questions(root)
    return MMBENCH.metrics([grade(MMBENCH, q, replies.get(q.row_id, q.reference)) for q in questions])


def test_a_question_counts_if_every_rotation_is_right(root):
    metrics = _metrics(root, {"2000005": "A. None of these"})
    assert metrics["circular"] == 50
    assert metrics["vanilla"] == 100
    assert metrics["accuracy"] == 80
    assert (metrics["circular/category=science"], metrics["circular/l2=perception"]) == (100, 0)
    assert metrics["accuracy/l2=perception"] == pytest.approx(200 / 3)
    assert metrics["failed"] == 0


def test_a_reply_without_a_letter_is_wrong_and_counted_as_failed(root):
    metrics = _metrics(root, {"3": "the iron one"})
    assert (metrics["vanilla"], metrics["failed"]) == (50, 20)


def test_a_rotation_without_an_answer_makes_its_question_missing(root):
    questions = MMBENCH.questions(root)
    graded = [grade(MMBENCH, q, q.reference) for q in questions]
    lost = next(i for i, q in enumerate(questions) if q.row_id == "1000003")
    graded[lost] = benchmarks.ungraded(questions[lost], Outcome.FAILED)
    found = {s.metric: s for s in scores(MMBENCH, graded)}
    assert (found["circular"].value, found["circular"].n, found["circular"].missing) == (100, 1, 1)
    assert (found["vanilla"].n, found["vanilla"].missing) == (2, 0)


def test_rotations_share_a_picture(root):
    media = {q.row_id: q.medium.path for q in MMBENCH.questions(root)}
    assert set(media.values()) == {"mmbench/images/20230712/3.png", "mmbench/images/20230712/5.png"}
    assert media["1000003"] == media["3"]


def test_options_end_at_the_first_without_a_value(root):
    rows = mmbench_rows()
    rows[0]["C"], rows[0]["D"] = "NONE", "zinc"
    write_table(root / TABLE, rows)
    assert MMBENCH.questions(root)[0].question.endswith("\nA. iron\nB. cork")


def test_pictures_are_unpacked_once_and_never_for_scores(root):
    questions = MMBENCH.questions(root)
    MMBENCH.metrics([grade(MMBENCH, q, "A") for q in questions])
    assert not (root / "mmbench/images").exists()
    assert MMBENCH.unpack(root) == 2
    assert MMBENCH.unpack(root) == 0
    assert [number_of((root / q.medium.path).read_bytes()) for q in questions] == [3, 5, 3, 5, 5]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (drawn(9), "line 5: another picture than other rows about 3"),
        ("not base64!", "line 5: another picture than"),
    ],
)
def test_rotations_with_other_pictures_are_refused(root, image, message):
    rows = mmbench_rows()
    rows[2]["image"] = image
    write_table(root / TABLE, rows)
    with pytest.raises(RequestError, match=message):
        MMBENCH.unpack(root)


def test_a_rotation_may_name_the_first_row_as_its_picture(root):
    rows = mmbench_rows()
    rows[2]["image"] = "3"
    write_table(root / TABLE, rows)
    assert MMBENCH.unpack(root) == 2


@pytest.mark.parametrize("image", ["///$", "abc"])
def test_text_that_is_no_picture_is_refused(root, image):
    rows = [{**row, "image": image} for row in mmbench_rows()]
    write_table(root / TABLE, rows)
    with pytest.raises(RequestError, match="line 2: the picture is not base64"):
        MMBENCH.unpack(root)


def test_large_pictures_and_crlf(root):
    large = base64.b64encode(bytes(3_000_000)).decode()
    rows = [{**row, "image": large, "hint": row["hint"].replace("\n", " ")} for row in mmbench_rows()]
    write_table(root / TABLE, rows, "\r\n")
    questions = MMBENCH.questions(root)
    assert questions[0].question.startswith('A "test": read it.\nWhich')
    assert questions[0].medium.path.endswith("/3.jpg")
    assert MMBENCH.unpack(root) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "C"}, "line 4: the answer is none of the options: 'C'"),
        ({"index": "five"}, "line 4: the index is not a number: 'five'"),
        ({"index": "9" * 5000}, "line 4: the index is not a number: '9999"),
        ({"index": "3"}, "line 4: index 3 is there twice"),
        ({"image": "nan"}, "line 4: no picture"),
    ],
)
def test_damaged_rows_are_named(root, change, message):
    rows = mmbench_rows()
    rows[1] = {**rows[1], "C": "", **change}
    write_table(root / TABLE, rows)
    with pytest.raises(RequestError, match=message):
        MMBENCH.questions(root)


def test_the_sheet_for_the_server(root, tmp_path):
    questions = MMBENCH.questions(root)
    replies = {q.id: f" {q.reference}\n" for q in questions}
    replies[questions[0].id] = "=1+1\x07"
    (file,) = MMBENCH.upload(root, questions, replies, tmp_path / "out/a.xlsx")
    rows = list(openpyxl.load_workbook(file).active.iter_rows(values_only=True))
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[1] == (3, "Which sinks?", "iron", "cork", None, None, "=1+1 ", "A", "dev")
    assert [row[0] for row in rows[1:]] == [3, 5, 1000003, 2000005, 1000005]
    assert {row[0]: row[6] for row in rows[2:]} == {int(q.row_id): q.reference for q in questions[1:]}


def test_the_sheet_is_the_same_bytes_each_time(root, tmp_path, monkeypatch):
    questions = MMBENCH.questions(root)
    replies = {q.id: q.reference for q in questions}
    (one,) = MMBENCH.upload(root, questions, replies, tmp_path / "one.xlsx")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)  # the archive's clock; the book's own goes on
    time.sleep(1.1)
    (other,) = MMBENCH.upload(root, questions, replies, tmp_path / "other.xlsx")
    assert one.read_bytes() == other.read_bytes()


def test_nothing_is_written_unless_all_is_well(root, tmp_path):
    questions = MMBENCH.questions(root)
    replies = {q.id: "A" for q in questions}
    with pytest.raises(RequestError, match="1 of 5 questions"):
        MMBENCH.upload(root, questions, dict(list(replies.items())[1:]), tmp_path / "out/a.xlsx")
    with pytest.raises(RequestError, match="40000 characters in a cell"):
        MMBENCH.upload(root, questions, {**replies, questions[0].id: "A" * 40_000}, tmp_path / "out/a.xlsx")
    assert not (tmp_path / "out").exists()


def test_splits_have_files_and_words_of_their_own(tmp_path):
    assert benchmarks.splits("mmbench") == ["20230712", "en_20231003", "cn"]
    assert MMBENCH.split == "20230712"
    cn = benchmarks.load("mmbench", "cn")
    question = cn.questions(made_up(tmp_path, "mmbench:cn"))[0]
    assert question.prompt == question.question + "\n请直接回答选项字母。"
    assert question.medium.path == "mmbench/images/cn/3.png"
    assert not cn.published


def test_scores_do_not_need_a_spreadsheet():
    code = "import sys, raypipe.benchmarks.mmbench; print('openpyxl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
