"""The demo's checks rest on the numbers of the run, and fail when those are not good enough."""

from __future__ import annotations

from raypipe.demo.checks import checks_of

GOOD = {
    "untrained": {"colour": 0, "scenes": 2, "size": 0},
    "trained": {"colour": 118, "scenes": 119, "size": 0},
    "one frame": {"colour": 118, "scenes": 40, "size": 0},
    "lora": {"colour": 117, "scenes": 118, "size": 110},
}


def _summaries(changes=None, asked=120):
    found = {label: {**kinds, **(changes or {}).get(label, {})} for label, kinds in GOOD.items()}
    return {
        label: {
            "benchmarks": {
                "msvd_qa": [
                    {"metric": f"accuracy/{kind}", "value": 100 * right / asked, "n": asked}
                    for kind, right in kinds.items()
                ]
            }
        }
        for label, kinds in found.items()
    }


def _failed(changes, **kwargs):
    return [c["name"] for c in checks_of(_summaries(changes, **kwargs)) if not c["passed"]]


def test_a_good_run_passes():
    assert _failed({}) == []


def test_colour_under_95_percent_fails():
    assert _failed({"trained": {"colour": 113}}) == ["the trained model names the colour in held-out clips"]


def test_counting_at_chance_fails():
    assert "it counts scenes, which no single frame shows" in _failed({"trained": {"scenes": 45}})


def test_a_control_that_still_answers_fails():
    assert _failed({"one frame": {"scenes": 80}}) == [
        "control: shown one frame eight times, it falls to chance"
    ]


def test_a_lora_stage_that_teaches_nothing_fails():
    assert _failed({"lora": {"size": 60}}) == ["the LoRA stage teaches it"]


def test_too_few_questions_prove_nothing():
    few = {label: {kind: min(right, 50) for kind, right in kinds.items()} for label, kinds in GOOD.items()}
    assert "it counts scenes, which no single frame shows" in _failed(few, asked=50)
