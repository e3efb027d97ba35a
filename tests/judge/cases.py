"""Predictions and settings as the judge's tests need them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from raypipe.grading.rubrics import RUBRICS
from raypipe.judge.asker import Asker
from raypipe.judge.book import VIEW
from raypipe.judge.case import Case, verdict_key
from raypipe.judge.client import Client
from raypipe.judge.endpoint import host_of
from raypipe.judge.gate import Gate
from raypipe.judge.governor import Governor, Limits
from raypipe.judge.log import VERDICTS
from raypipe.judge.stream import JudgeStream
from raypipe.records import VERDICT_SCHEMA, Outcome, Prediction, Verdict, verdicts_of
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.shards import Shard
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


def judge_all(
    with_settings: JudgeSettings, predictions: Sequence[Prediction], rubric: str = "video_qa"
) -> list[Verdict | BaseException]:
    """Each answer's verdict, or what stopped the run, with as many asked at once as the settings allow."""

    async def ask() -> list[Verdict | BaseException]:
        limits = Limits(with_settings.concurrency, max_usd=with_settings.max_usd)
        gate = Gate(Governor(limits), f"the judge at {host_of(with_settings)}", lambda usd: None)
        client = Client(with_settings)
        asker = Asker(with_settings, client, gate)
        slots = asyncio.Semaphore(with_settings.concurrency)

        async def one(prediction: Prediction) -> Verdict:
            async with slots:
                return await asker.judge(case_of(prediction, with_settings, rubric))

        try:
            return await asyncio.gather(*(one(p) for p in predictions), return_exceptions=True)
        finally:
            await client.close()

    return asyncio.run(ask())


def judge_one(
    with_settings: JudgeSettings, answer: Prediction | None = None, rubric: str = "video_qa"
) -> Verdict:
    (result,) = judge_all(with_settings, [answer or prediction()], rubric)
    if isinstance(result, BaseException):
        raise result
    return result


def case_of(one: Prediction, with_settings: JudgeSettings, rubric: str = "video_qa") -> Case:
    named = RUBRICS[rubric]
    return Case(verdict_key([one], named, with_settings), named, (one,))


def stream_of(store: Store, endpoint: JudgeEndpoint, rubric: Any = "video_qa", **more: Any) -> JudgeStream:
    """A stream in this process; ``rubric`` judges every benchmark."""
    made = {name: more.pop(name) for name in ("known", "at_once") if name in more}
    return JudgeStream(store, lambda _: rubric, settings(endpoint, **more), use_ray=False, **made)


def rows(store: Store) -> list[Verdict]:
    """All verdicts of the ledger."""
    return verdicts_of(Ledger(store, VERDICTS, VERDICT_SCHEMA).rows())


def view(store: Store) -> list[Verdict]:
    """The verdicts that count."""
    return verdicts_of(Shard(store, VIEW, VERDICT_SCHEMA).table().to_pylist())
