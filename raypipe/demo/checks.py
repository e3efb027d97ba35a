"""What the demo must show, checked on the numbers of the run."""

from __future__ import annotations

from typing import Any

from raypipe.demo.scenes import COUNTS, SIZES
from raypipe.grading.statistics import binomial_p_greater

COLOUR_FLOOR = 95.0
ALPHA = 0.001
MIN_QUESTIONS = 100


def checks_of(summaries: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each check with its name, whether it holds, and the numbers it rests on.

    Args:
        summaries: the results of the demo's evaluations by label.
    """
    found = {label: _msvd(summary) for label, summary in summaries.items()}
    time_chance, size_chance = 1 / len(COUNTS), 1 / len(SIZES)
    return [
        _at_least(
            "the trained model names the colour in held-out clips", found["trained"], "colour", COLOUR_FLOOR
        ),
        _above("it counts scenes, which no single frame shows", found["trained"], "scenes", time_chance),
        _at_chance(
            "control: shown one frame eight times, it falls to chance",
            found["one frame"],
            "scenes",
            time_chance,
        ),
        _at_chance(
            "the untrained model is not above chance in counting", found["untrained"], "scenes", time_chance
        ),
        _at_chance(
            "the finetuned model does not know the LoRA stage's question",
            found["trained"],
            "size",
            size_chance,
        ),
        _above("the LoRA stage teaches it", found["lora"], "size", size_chance),
        _above("the LoRA stage leaves counting in place", found["lora"], "scenes", time_chance),
    ]


def _msvd(summary: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(right, asked) by kind of question."""
    out = {}
    for score in summary["benchmarks"]["msvd_qa"]:
        metric, _, kind = score["metric"].partition("/")
        if metric == "accuracy" and kind:
            out[kind] = (round(score["value"] / 100 * score["n"]) if score["n"] else 0, score["n"])
    return out


def _at_least(name: str, found: dict[str, tuple[int, int]], kind: str, floor: float) -> dict[str, Any]:
    right, asked = found[kind]
    share = 100 * right / asked if asked else 0.0
    return {
        "name": name,
        "passed": share >= floor,
        "detail": f"{right} of {asked} right, at least {floor:g} % wanted",
    }


def _above(name: str, found: dict[str, tuple[int, int]], kind: str, chance: float) -> dict[str, Any]:
    right, asked = found[kind]
    p = binomial_p_greater(right, asked, chance)
    detail = f"{right} of {asked} right, chance {100 * chance:.0f} %, one-sided exact p = {p:.1e}"
    return {"name": name, "passed": asked >= MIN_QUESTIONS and p < ALPHA, "detail": detail}


def _at_chance(name: str, found: dict[str, tuple[int, int]], kind: str, chance: float) -> dict[str, Any]:
    right, asked = found[kind]
    p = binomial_p_greater(right, asked, chance)
    detail = f"{right} of {asked} right, chance {100 * chance:.0f} %, one-sided exact p = {p:.2f}"
    return {"name": name, "passed": asked >= MIN_QUESTIONS and p >= ALPHA, "detail": detail}
