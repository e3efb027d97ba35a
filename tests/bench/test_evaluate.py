"""The arms of evaluate's figures do the same work: their answers are equal, and counted right."""

import dataclasses
from pathlib import Path

import pytest

from bench import asked, gpu, gpu_answers, overlap, prefixes
from raypipe.evaluate.local import LocalEngine


@pytest.fixture(scope="module")
def small():
    """One video with three questions, to a smaller model than that of the figures."""
    return asked.videos(1, new_tokens=4, questions=3), asked.small_model()


def test_the_arms_of_the_prefix_figure_answer_alike(small, tmp_path):
    videos, loaded = small
    ours, theirs = prefixes.Ours(videos, loaded, tmp_path), prefixes.Reference(videos, loaded)
    ours(), theirs()
    bare = prefixes.Bare(videos, loaded, ours.media)
    bare()
    assert ours.answers == theirs.answers == bare.answers
    assert len(ours.answers) == 3
    assert len(set(ours.answers.values())) > 1
    assert (ours.decodes, theirs.decodes) == (1, 3)
    ours()  # a second round asks again, in a run of its own
    assert len(list(Path(tmp_path).rglob("predictions/*.arrow"))) == 2


def test_prefill_dominates_in_the_model_that_is_measured(small):
    videos, loaded = small
    chat = loaded.chat("v1")
    (group,) = videos.unit.groups
    prompts = [chat.prompt(q.prompt, (group.medium.kind,)) for q in group.questions]
    assert min(map(len, prompts)) > 1000
    assert len(set(map(len, prompts))) > 1


def test_a_round_of_overlap_judges_every_answer():
    """Judged or not, a round under the coverage floor raises."""
    assert overlap._round(0.2, 0.2) > 0.2


@pytest.mark.parametrize("family", ["video_llava_hf", "video_llava"])
def test_the_gpu_arm_answers_on_a_cpu_too(family):
    tiny = gpu_answers.Asked(
        "tiny", family, "fp32", 600, videos=2, questions=3, batch=4, new_tokens=3, alone=5
    )
    found = gpu_answers.measured(tiny)
    assert found["answers_equal"] == "5 of 5"
    assert found["failed"] == []
    assert found["visual_tokens"] == 40
    assert found["device"] == "cpu"
    assert found["gpu_busy"] is None
    engine = LocalEngine(gpu_answers.built(tiny), "fp32", 4)
    (replies,) = engine.answer([gpu_answers.drawn_video(tiny, 0)], gpu_answers.Way("v1", "pad", 3))
    assert [r.new_tokens for r in replies] == [3, 3, 3]  # none ends early


def test_every_arm_of_the_gpu_figures_has_settings_that_hold():
    fields = {f.name for f in dataclasses.fields(gpu_answers.Asked)}
    for how, chosen in gpu.ARMS.values():
        if how == "answers":
            assert set(chosen) <= fields
        else:
            gpu.stage(out="x", mixture=[{"data": "d"}], **{k: v for k, v in chosen.items() if k != "data"})
