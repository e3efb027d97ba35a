import json
from pathlib import Path

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmarks.video_chatgpt import ASPECTS
from raypipe.errors import RequestError
from raypipe.report.score import score_verdicts
from raypipe.stored_verdicts.aspects import aspect_of
from tests.support.eval_roots import made_up, write_json

BENCHMARK = benchmarks.load("video_chatgpt")
PLACE = "Video_5_Benchmark/Benchmarking_QA"
GENERIC = {"v_a_0": 4, "v_a_1": 2, "v_b_0": 3}
ALL = {
    "correctness": GENERIC,
    "detail": {"v_a_0": 1, "v_a_1": 1, "v_b_0": 4},
    "context": {"v_a_0": 5, "v_a_1": 5, "v_b_0": 5},
    "temporal": {"v_a_0": 2},
    "consistency": {"v_a_0": 1, "v_b_0": 4},
}


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "video_chatgpt")


def _scored(root, aspects):
    """Scores ``{aspect: {key: score or whole record}}``, one combined file for each aspect."""
    paths = []
    for aspect, verdicts in aspects.items():
        paths.append(root / f"results/{aspect}_qa.json")
        records = {k: v if isinstance(v, list) else [{"score": v}, {}] for k, v in verdicts.items()}
        write_json(paths[-1], records)
    return score_verdicts("video_chatgpt", root, paths)


def test_each_question_is_asked_once_and_counted_by_video(root):
    questions = BENCHMARK.questions(root)
    videos = {"v_a": "Video_5_Benchmark/Test_Videos/v_a.mp4", "v_b": "Video_5_Benchmark/Test_Videos/v_b.mkv"}
    assert [(q.row_id, q.category, q.question) for q in questions] == [
        ("generic/v_a_0", "generic", "What happens in the video?"),
        ("generic/v_a_1", "generic", "Where is he?"),
        ("generic/v_b_0", "generic", "What happens in the video?"),
        ("temporal/v_a_0", "temporal", "What does he do first?"),
        ("consistency/v_a_0/1", "consistency", "What is he wearing?"),
        ("consistency/v_a_0/2", "consistency", "Which clothes does he have on?"),
        ("consistency/v_b_0/1", "consistency", "What is on the sofa?"),
        ("consistency/v_b_0/2", "consistency", "Which animal is there?"),
    ]
    assert all(q.medium.path == videos[q.row_id.split("/")[1][:3]] for q in questions)
    assert questions[4].reference == questions[5].reference == "A red shirt."


def test_the_same_question_in_two_sets_is_two_questions(root):
    path = root / PLACE / "temporal_qa.json"
    write_json(path, json.loads((root / PLACE / "generic_qa.json").read_text()))
    assert len({q.id for q in BENCHMARK.questions(root)}) == 10


def test_one_mean_for_each_aspect_and_their_mean(root):
    found = _scored(root, ALL)
    assert found["metrics"] == pytest.approx(
        {
            "mean": 2.9,
            "correctness": 3,
            "detail": 2,
            "context": 5,
            "temporal": 2,
            "consistency": 2.5,
        }
    )
    assert (found["n"], found["missing"], found["duplicate"], found["extra"]) == (8, 0, 0, 0)
    assert found["outcomes"] == {"ok": 8}
    low, high = found["intervals"]["mean"]
    assert 0 <= low <= 2.9 <= high <= 5
    assert low < high


def test_the_mean_is_unknown_until_each_aspect_is_judged(root):
    found = _scored(root, {"correctness": GENERIC})
    assert found["metrics"] == {
        "mean": None,
        "correctness": 3,
        "detail": None,
        "context": None,
        "temporal": None,
        "consistency": None,
    }
    assert (found["n"], found["missing"]) == (3, 5)
    assert found["outcomes"] == {"judge_failed": 5, "ok": 3}


def test_folders_of_verdicts_are_read(root):
    for key, score in GENERIC.items():
        write_json(root / f"gpt3/detail/{key}.json", [{"score": score}, {}])
    found = score_verdicts("video_chatgpt", root, [root / "gpt3/detail"])
    assert (found["metrics"]["detail"], found["metrics"]["correctness"]) == (3, None)
    (root / "gpt3/context").mkdir()
    with pytest.raises(RequestError, match=r"no verdict in .*context"):
        score_verdicts("video_chatgpt", root, [root / "gpt3/context"])


def test_scores_are_cut_and_unreadable_ones_counted(root):
    odd = {"v_a_0": 4.8, "v_a_1": "4.8", "v_b_0": 6}
    found = _scored(root, {**ALL, "correctness": odd})
    assert found["metrics"]["correctness"] == 4
    assert found["metrics"]["detail"] == 2  # the other marks of the same replies count
    assert found["outcomes"] == {"judge_unreadable": 2, "ok": 6}
    only = _scored(root, {"correctness": odd})
    assert (only["n"], only["missing"]) == (1, 7)
    assert only["outcomes"] == {"judge_failed": 5, "judge_unreadable": 2, "ok": 1}


def test_extra_and_repeated_verdicts_are_counted(root):
    write_json(root / "more/temporal.json", {"v_a_0": [{"score": 5}], "v_z_0": [{"score": 5}]})
    write_json(root / "results/temporal_qa.json", {"v_a_0": [{"score": 1}]})
    found = score_verdicts(
        "video_chatgpt", root, [root / "more/temporal.json", root / "results/temporal_qa.json"]
    )
    assert found["metrics"]["temporal"] == 1
    assert (found["n"], found["duplicate"], found["extra"]) == (1, 1, 1)
    again = _scored(root, {"consistency": ALL["consistency"]})
    assert (again["n"], again["duplicate"], again["extra"]) == (4, 0, 0)


def test_a_shifted_key_is_found_by_its_question(root):
    judged = {"q": "Where is he?", "a": "In a park.", "pred": "In a street."}
    found = _scored(root, {"correctness": {"v_a_0": [{"score": 1}, judged]}})
    questions = BENCHMARK.questions(root)
    stored = BENCHMARK.verdicts(questions, [root / "results/correctness_qa.json"])
    assert list(stored.runs[0]) == [questions[1].id]
    assert (found["metrics"]["correctness"], found["extra"]) == (1, 0)


@pytest.mark.parametrize(
    "judged",
    [
        {"q": "Who is he?", "a": "A man runs."},
        {"q": "What happens in the video?", "a": "A cat sleeps."},
        {"a": "Nothing."},
    ],
)
def test_verdicts_on_something_else_are_refused(root, judged):
    with pytest.raises(
        RequestError, match=r"correctness_qa.json: the verdict on 'v_a_0' was given on another"
    ):
        _scored(root, {"correctness": {"v_a_0": [{"score": 1}, judged]}})


def test_both_questions_of_a_consistency_record_are_read(root):
    ours = {"q1": "What is he wearing?", "q2": "Which clothes does he have on?", "a": "A red shirt."}
    twice = {**ours, "q2": ours["q1"]}  # what Video-LLaVA's evaluator stores
    for judged in (ours, twice):
        found = _scored(root, {"consistency": {"v_a_0": [{"score": 3}, judged]}})
        assert (found["metrics"]["consistency"], found["n"]) == (3, 2)
    with pytest.raises(RequestError, match="another question or answer"):
        _scored(root, {"consistency": {"v_a_0": [{"score": 3}, {**ours, "q2": "Who is he?"}]}})


@pytest.mark.parametrize(
    ("path", "aspect"),
    [
        ("results/correctness_qa.json", "correctness"),
        ("gpt3/detail", "detail"),
        ("contextual_eval/results.json", "context"),
        ("correctness/Temporal.json", "temporal"),
    ],
)
def test_the_aspect_is_in_the_name(path, aspect):
    assert aspect_of(Path("/x") / path, list(ASPECTS)) == aspect


@pytest.mark.parametrize("path", ["gpt3/results.json", "detail_and_context.json"])
def test_a_name_without_one_aspect_is_refused(path):
    with pytest.raises(RequestError, match="which aspect") as fault:
        aspect_of(Path("/x") / path, list(ASPECTS))
    assert "correctness, detail, context, temporal, consistency" in fault.value.remedy


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("generic", {"video_name": "../v_a"}, "row 1: medium '../v_a' is not a name inside"),
        ("generic", {"Q": None}, "row 1: field 'Q' is not text"),
        ("consistency", {"Q2": None}, "row 1: field 'Q2' is not text"),
        ("temporal", {"A": {}}, "row 1: field 'A' is not text"),
    ],
)
def test_damaged_rows_are_named(root, file, change, message):
    path = root / PLACE / f"{file}_qa.json"
    rows = json.loads(path.read_text())
    write_json(path, [{**rows[0], **change}, *rows[1:]])
    with pytest.raises(RequestError, match=message) as fault:
        BENCHMARK.questions(root)
    assert str(path) in fault.value.message
