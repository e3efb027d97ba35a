"""Prompts and answers keep to the context of the model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from raypipe.evaluate.context import Context
from raypipe.evaluate.engine import Way
from raypipe.evaluate.local import LocalEngine
from tests.support.shown import IMAGE, VIDEO, alone, engine, medium, tokens
from tests.support.tiny import tiny_model

WAY = Way("v1", "pad", 8)
SHOWN = [medium(VIDEO, ["What moves?", "bars " * 9, "How many bars?"], 1), medium(IMAGE, ["What moves?"], 2)]


def lengths(answering, shown) -> list[list[int]]:
    chat = answering.loaded.chat(WAY.template)
    return [[len(chat.prompt(p, (one.kind,))) for p in one.prompts] for one in shown]


def bounded(most: int) -> LocalEngine:
    loaded = tiny_model(3, "video_llava")
    loaded.model.config.text_config.max_position_embeddings = most
    answering = LocalEngine(loaded, "fp32", 4)
    answering.ends = lambda chat: frozenset({10**6})  # so that no answer ends on its own
    return answering


def test_a_prompt_without_room_for_an_answer_fails_alone():
    free = tokens(engine().answer(SHOWN, WAY))
    longest = lengths(engine(), SHOWN)[0][1]
    assert longest == max(n for one in lengths(engine(), SHOWN) for n in one)
    loaded = tiny_model(3, "video_llava")
    loaded.model.config.text_config.max_position_embeddings = longest
    answering = LocalEngine(loaded, "fp32", 4)
    (first, long, last), (other,) = answering.answer(SHOWN, WAY)
    assert long.failed.startswith(f"the prompt has {longest} tokens")
    assert long.failed.endswith(f"context has {longest}")
    assert (long.text, long.tokens) == ("", ())
    assert answering.alone(SHOWN[0], SHOWN[0].prompts[1], WAY).reply == long
    assert not first.failed + last.failed + other.failed
    room = [longest - n for n in (lengths(answering, SHOWN)[0][0], lengths(answering, SHOWN)[0][2])]
    assert [first.tokens, last.tokens] == [free[0][0][: room[0]], free[0][2][: room[1]]]


@pytest.mark.parametrize("wanted", [8, 10**12])
def test_answers_end_where_the_context_does(wanted):
    """Also of questions that are answered in one batch; and no room is made for what cannot come."""
    most = max(n for one in lengths(engine(), SHOWN) for n in one) + 3
    answering, way = bounded(most), replace(WAY, max_new_tokens=wanted)
    replies = answering.answer(SHOWN, way)
    made = tokens(replies)
    assert made == alone(answering, SHOWN, way)
    room = [[min(wanted, most - n) for n in one] for one in lengths(answering, SHOWN)]
    assert [[len(t) for t in one] for one in made] == room
    assert min(room[0]) == 3


def test_a_prompt_far_over_the_context_reaches_no_tower():
    answering = bounded(300)
    answering.visual = None  # would be called for pixels
    ((reply,),) = answering.answer([medium(VIDEO, ["bars " * 100_000], 1)], WAY)
    assert reply.failed.startswith("the prompt has ")


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        ({"rope_type": "default"}, 100),
        ({"rope_type": "llama3", "factor": 8.0}, 100),
        ({"rope_type": "linear", "factor": 4.0}, 400),
        ({"rope_type": "dynamic", "factor": 2.0}, 200),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 25}, 100),
        (None, 100),
    ],
)
def test_scaled_positions_go_further(rope, most):
    config = SimpleNamespace(max_position_embeddings=100, rope_parameters=rope)
    assert Context.of(config).most == most
    assert Context.of(SimpleNamespace()).room(10**9, 7) == 7
