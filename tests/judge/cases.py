"""Predictions and settings as the judge's tests need them."""

from typing import Any

from raypipe.records import Outcome, Prediction
from raypipe.settings import JudgeSettings
from tests.support.judge_endpoint import JudgeEndpoint

BENCHMARK = "msvd_qa"


def prediction(
    number: int = 0, text: str | None = None, outcome: Outcome = Outcome.OK, **more: Any
) -> Prediction:
    """One answer; by default its content is another for each number."""
    values: dict[str, Any] = {
        "key": f"p{number}",
        "benchmark": BENCHMARK,
        "question_id": f"q{number}",
        "row_id": str(number),
        "medium": "clip.mp4",
        "category": "",
        "prompt": "what is it?",
        "question": "what is it?",
        "reference": "cat",
        "text": f"a cat {number}" if text is None else text,
        "outcome": outcome,
        "detail": "",
        "new_tokens": 3,
    }
    return Prediction(**{**values, **more})


def settings(endpoint: JudgeEndpoint, **more: Any) -> JudgeSettings:
    """A judge at this endpoint, without a key of the environment."""
    values: dict[str, Any] = {"base_url": endpoint.base_url, "key_env": "RAYPIPE_TEST_NO_KEY", "tries": 3}
    return JudgeSettings(**{**values, **more})
