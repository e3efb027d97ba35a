"""The certificate: a sample asked again alone, every difference listed."""

from dataclasses import replace

import pytest
import torch

from raypipe.evaluate.certificate import Alone, Certificate, Difference, certify
from raypipe.evaluate.engine import Reply, Way
from raypipe.evaluate.local import LocalEngine
from tests.support.shown import IMAGE, VIDEO, engine, medium, picture
from tests.support.tiny import tiny_model

WAY = Way("v1", "pad", 8)
NAMES = ["q0", "q1", "q2"]
SHOWN = medium(VIDEO, ["How many bars?", "What moves?", "a clip"], 1)
ALL = frozenset(NAMES)


def test_in_full_precision_nothing_differs():
    answering = engine(batch=3)
    (replies,) = answering.answer([SHOWN], WAY)
    made = certify(answering, SHOWN, WAY, NAMES, replies, ALL)
    assert (made.asked, made.equal, made.differences, made.failed) == (3, 3, (), ())


def test_only_the_chosen_are_asked_and_only_about_answers(monkeypatch):
    answering, asked = engine(batch=3), []
    (replies,) = answering.answer([SHOWN], WAY)
    real = LocalEngine.alone
    monkeypatch.setattr(
        LocalEngine, "alone", lambda self, s, prompt, way: asked.append(prompt) or real(self, s, prompt, way)
    )
    failed = [replies[0], Reply("", 0, "no memory"), replies[2]]
    made = certify(answering, SHOWN, WAY, NAMES, failed, frozenset(["q1", "q2", "other"]))
    assert asked == ["a clip"]
    assert (made.asked, made.equal) == (1, 1)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_every_difference_is_listed_with_its_place_and_gap(place):
    answering = engine(batch=3)
    (replies,) = answering.answer([SHOWN], WAY)
    right = answering.alone(SHOWN, SHOWN.prompts[1], WAY)
    assert len(right.reply.tokens) == 8, "the drawn question is answered with another number of tokens now"
    other = list(replies[1].tokens)
    other[place] += 1
    wrong = replace(replies[1], text="something else", tokens=tuple(other))
    made = certify(answering, SHOWN, WAY, NAMES, [replies[0], wrong, replies[2]], ALL)
    assert (made.asked, made.equal) == (3, 2)
    assert made.differences == (
        Difference("q1", "something else", right.reply.text, place, right.gaps[place]),
    )
    short = replace(replies[1], tokens=replies[1].tokens[:place], new_tokens=place)
    (found,) = certify(answering, SHOWN, WAY, NAMES, [replies[0], short, replies[2]], ALL).differences
    assert found.token == place


def test_gaps_are_those_of_the_plain_forward_pass():
    """Between the two best logits at each token, by one pass over prompt and answer without a cache."""
    answering = engine(batch=1)
    shown = medium(IMAGE, ["How many bars?"], 4)
    made = answering.alone(shown, shown.prompts[0], WAY)
    model, chat = answering.model, answering.loaded.chat("v1")
    from raypipe.evaluate.prefix import spliced

    ids = (*chat.prompt(shown.prompts[0], (IMAGE,)), *made.reply.tokens)
    with torch.no_grad():
        (visual,) = answering.visual(IMAGE, [answering.pixels(shown.frames, IMAGE, "pad")])
        embeds, _ = spliced(model, answering.loaded.family, ids, IMAGE, visual)
        best = model(inputs_embeds=embeds[None]).logits[0].topk(2).values
    begin = len(ids) - len(made.reply.tokens) - 1
    expected = (best[:, 0] - best[:, 1])[begin : begin + len(made.gaps)]
    torch.testing.assert_close(torch.tensor(made.gaps), expected, atol=1e-4, rtol=1e-4)


def test_what_rounding_did_stands_at_a_close_call():
    """Answers made in half precision, asked again in full: a real difference, and the same list twice."""
    rounded, exact, way = (
        LocalEngine(tiny_model(), "bf16", 16),
        engine("video_llava_hf"),
        Way("v1", "pad", 12),
    )
    shown = [medium(VIDEO, [f"What moves {n} bars?" for n in range(4)], n) for n in range(4)]
    names = [[f"{number}-{n}" for n in range(4)] for number in range(4)]
    found = []
    for _ in range(2):
        replies = rounded.answer(shown, way)
        each = zip(shown, names, replies, strict=True)
        found.append(
            Certificate.together(
                certify(exact, one, way, ids, mine, frozenset(ids)) for one, ids, mine in each
            )
        )
    assert found[0] == found[1]
    assert found[0].asked == 16
    assert 0 < len(found[0].differences) < 16, "the drawn questions show too little or too much rounding now"
    for difference in found[0].differences:
        assert difference.gap is not None
        assert difference.gap < 0.5


def test_what_cannot_be_asked_again_is_named():
    answering = engine(batch=3)
    (replies,) = answering.answer([SHOWN], WAY)
    torn = replace(SHOWN, frames=(picture(1),))
    made = certify(answering, torn, WAY, NAMES, replies, frozenset(["q0"]))
    assert made.asked == 0
    assert made.failed == (("q0", "1 frames for a model that takes 8"),)


def test_answers_without_ids_are_compared_as_text():
    class Told:
        def alone(self, shown, prompt, way):
            return Alone(Reply(prompt.upper(), 3), ())

    replies = [Reply("HOW MANY BARS?", 3), Reply("what", 3), Reply("A CLIP", 3)]
    made = certify(Told(), SHOWN, WAY, NAMES, replies, ALL)
    assert made.differences == (Difference("q1", "what", "WHAT MOVES?", -1, None),)


def test_it_is_a_plain_record_and_adds_up():
    first = Certificate(
        3, (Difference("b", "x", "y", 0, 0.5), Difference("a", "x", "y", 1, None)), (("c", "no"),)
    )
    second = Certificate(2, (Difference("0", "x", "y", -1, None),))
    both = Certificate.together([second, first])
    assert both == Certificate.together([first, second])
    assert (both.asked, both.equal) == (5, 2)
    assert [d.question_id for d in both.differences] == ["0", "a", "b"]
    assert Certificate.of(both.row()) == both
    assert both.row()["equal"] == 2
    assert Certificate.together([]).row() == {"asked": 0, "equal": 0, "differences": [], "failed": []}
