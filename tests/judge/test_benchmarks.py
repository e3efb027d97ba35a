"""Every judged benchmark, from its files to its score, with the demo's judge in place of a language model."""

from dataclasses import replace
from pathlib import Path

import pytest

from raypipe.benchmark import Benchmark, grade_answer, load, scores, wants_judge
from raypipe.demo.matching_judge import MatchingJudge
from raypipe.grading.judging import by_question
from raypipe.judge.run import judge_run
from raypipe.records import Outcome, Prediction, Question
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from tests.support.case import predicted
from tests.support.eval_roots import made_up

JUDGED = [
    "activitynet_qa",
    "llava_bench",
    "mm_vet",
    "mmbench",
    "msrvtt_qa",
    "msvd_qa",
    "tgif_qa",
    "video_chatgpt",
]


def answer(benchmark: Benchmark, question: Question, right: bool) -> Prediction:
    if benchmark.name == "mmbench":
        options = dict(line.split(". ", 1) for line in question.question.splitlines() if line[1:3] == ". ")
        letters = [letter for letter in options if (letter == question.reference) is right]
        text = f"I say it is {options[letters[0]]}"
    else:
        elements = [element.partition("<OR>")[0].strip() for element in question.reference.split("<AND>")]
        text = " and ".join(elements) if right else "something else"
    context = str(question.extra.get("context", ""))
    return replace(predicted(question, text), benchmark=benchmark.name, context=context)


def primary(tmp_path: Path, benchmark: Benchmark, root: Path, right: bool) -> float:
    answers = [answer(benchmark, q, right) for q in benchmark.questions(root)]
    asked = [p for p in answers if wants_judge(benchmark, p)]
    assert asked, "a judge is needed"
    with MatchingJudge() as judge:
        made = JudgeSettings(base_url=judge.base_url, key_env="RAYPIPE_TEST_NO_KEY")
        store = Store(str(tmp_path / f"run_{right}"))
        verdicts = by_question(judge_run(store, asked, lambda _: benchmark.rubric, made, use_ray=False))
    assert {v.outcome for of in verdicts.values() for v in of} == {Outcome.OK}
    assert not any(v.flags for of in verdicts.values() for v in of)
    graded = [grade_answer(benchmark, p, verdicts.get(p.question_id)) for p in answers]
    found = {score.metric: score for score in scores(benchmark, graded)}
    assert found[benchmark.primary].missing == 0
    return found[benchmark.primary].value


@pytest.mark.parametrize("name", JUDGED)
def test_right_answers_score_full_and_wrong_ones_do_not(tmp_path: Path, name: str) -> None:
    benchmark = load(name)
    root = made_up(tmp_path / "eval", "mmbench:20230712" if name == "mmbench" else name)
    best = {"llava_bench": 100.0, "video_chatgpt": 5.0}.get(name, 100.0)
    worst = {"llava_bench": 50.0}.get(name, 0.0)
    assert primary(tmp_path, benchmark, root, True) == pytest.approx(best)
    assert primary(tmp_path, benchmark, root, False) == pytest.approx(worst)


def test_the_judge_of_llava_bench_is_told_what_the_image_shows(tmp_path: Path) -> None:
    benchmark = load("llava_bench")
    questions = benchmark.questions(made_up(tmp_path / "eval", "llava_bench"))
    assert all(answer(benchmark, q, True).context for q in questions)
