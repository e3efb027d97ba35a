"""What judging will take, before it is started: calls, tokens, US dollars. Asks nothing.

Tokens are counted without the judge's tokenizer, at ``CHARS_PER_TOKEN`` characters each, which is what OpenAI
states for English; ``at_most_usd`` counts a token for each byte and the longest reply, as the money ceiling
does. Second tries are not in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from raypipe.grading.rubrics import Rubric, message
from raypipe.judge.asker import CODE_BYTES, OVERHEAD_TOKENS, usd_of
from raypipe.judge.cache import VerdictCache
from raypipe.judge.case import Case, Cases, RubricOf
from raypipe.judge.index import VerdictIndex
from raypipe.judge.log import VERDICTS
from raypipe.judge.rubric_files import rubrics_of
from raypipe.records import VERDICT_SCHEMA, Prediction, Question
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger

CHARS_PER_TOKEN = 4.0
ANSWER_TOKENS = 30  # of an answer that is not known yet
MESSAGE_TOKENS = 8  # around the two messages of a call
UNKNOWN = "not answered yet"  # the detail of an answer that is not there yet


@dataclass(frozen=True)
class Estimate:
    """What judging will take; ``shared`` verdicts cost nothing, as they are known or of the same content."""

    calls: int = 0
    shared: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    usd: float = 0.0
    at_most_usd: float = 0.0

    def row(self) -> dict[str, float]:
        return asdict(self)


def estimate(
    predictions: Iterable[Prediction],
    rubric_of: RubricOf,
    settings: JudgeSettings,
    *,
    run_store: Store | None = None,
    answer_tokens: int = ANSWER_TOKENS,
    count: Callable[[str], int] | None = None,
) -> Estimate:
    """Calls and cost of judging these answers.

    Args:
        predictions: answers, or ``unanswered`` questions.
        rubric_of: what a benchmark asks a judge, by its name, as for ``JudgeStream``.
        run_store: a run whose verdicts are there already; None: a new one.
        answer_tokens: how long an answer that is not known is taken to be.
        count: the tokens of a text, where a tokenizer is at hand.

    Raises:
        RequestError: no such rubric, or a bad rubric file.
        ServiceError: the run or the cache cannot be read.
    """
    count = count or (lambda text: math.ceil(len(text) / CHARS_PER_TOKEN))
    cases = list(Cases(rubric_of, rubrics_of(settings), settings).of(predictions))
    todo = _to_ask(cases, settings, run_store)
    prompt = reply = 0
    at_most = 0.0
    fixed: dict[str, tuple[int, int, int]] = {}  # of a rubric: tokens before and of a reply, bytes of a call
    for case in todo:
        rubric = case.rubric
        if rubric.name not in fixed:
            always = len(rubric.system.encode()) + len(json.dumps(rubric.schema).encode()) + OVERHEAD_TOKENS
            fixed[rubric.name] = count(rubric.system) + MESSAGE_TOKENS, count(_typical(rubric)), always
        before, replied, always = fixed[rubric.name]
        content, _ = rubric.content(case.subjects)
        said = message(content, "0" * 2 * CODE_BYTES)
        unknown = sum(p.detail == UNKNOWN for p in case.predictions) * answer_tokens
        prompt += before + count(said) + unknown
        reply += replied
        most = always + len(said.encode()) + unknown * int(CHARS_PER_TOKEN)
        at_most += usd_of(most, settings.max_reply_tokens, settings.price_now())
    usd = usd_of(prompt, reply, settings.price_now())
    return Estimate(len(todo), len(cases) - len(todo), prompt, reply, usd, at_most)


def unanswered(question: Question) -> Prediction:
    """A question as if it had been answered with something that is not known yet."""
    return Prediction.about(question, "", "", detail=UNKNOWN)


def _to_ask(cases: list[Case], settings: JudgeSettings, run_store: Store | None) -> list[Case]:
    """The cases without a verdict, each content once; what is not known yet may be anything."""
    answered: dict[str, Case] = {}
    unknown: list[Case] = []
    for case in cases:
        if any(p.detail == UNKNOWN for p in case.predictions):
            unknown.append(case)
        else:
            answered.setdefault(case.key, case)
    keys = list(answered)
    known = VerdictIndex([Ledger(run_store, VERDICTS, VERDICT_SCHEMA)]).find(keys) if run_store else {}
    cached = VerdictCache(settings).find(keys) if settings.cache else {}
    return [case for key, case in answered.items() if key not in known and key not in cached] + unknown


def _typical(rubric: Rubric) -> str:
    """A reply as a judge gives it."""
    values = {slot.name: slot.values[0] for slot in rubric.slots}
    return json.dumps({"code": "0" * 2 * CODE_BYTES, **values})
