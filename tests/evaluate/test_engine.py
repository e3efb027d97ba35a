"""Answers of the engine equal those of one question at a time, and what is shared is made once."""

import random
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch

from raypipe.errors import RequestError
from raypipe.evaluate.engine import Shown, Split, Way
from raypipe.evaluate.local import LocalEngine
from raypipe.model.families import FAMILIES
from raypipe.model.pictures import is_ready, ready
from raypipe.model.pixels import Look
from raypipe.records import MediumKind
from raypipe.text.templates import TEMPLATES, Piece, Template
from tests.support.shown import IMAGE, VIDEO, alone, drawn, engine, medium, picture, tokens
from tests.support.tiny import tiny_model

WAY = Way("v1", "pad", 8)
ENDS = ["there", "in", "the clip", "now", "of them", "yellow", "right", "Ten", "a", "a clip"]
TEN = [f"How many bars are {end}?" for end in ENDS]


@dataclass
class Seen:
    """Shapes of what went through the language model and the towers."""

    words: list[tuple[int, int]] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)


@contextmanager
def watched(answering: LocalEngine):
    seen, hooks, model = Seen(), [], answering.model

    def note_words(module, args, kwargs):
        seen.words.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    def note_frames(module, args):
        seen.frames.append(len(args[0]))

    hooks.append(model.model.language_model.register_forward_pre_hook(note_words, with_kwargs=True))
    for path in dict.fromkeys(answering.loaded.family.towers.values()):
        hooks.append(model.get_submodule(path).register_forward_pre_hook(note_frames))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(8))
def test_any_mix_is_answered_as_one_at_a_time(family, seed):
    rng = random.Random(1000 + seed)
    shown, batch = drawn(seed), rng.randint(1, 9)
    way = Way(rng.choice(["v1", "llava_v1"]), rng.choice(["pad", "square"]), rng.randint(1, 12))
    answering = engine(family)
    replies = LocalEngine(answering.loaded, "fp32", batch).answer(shown, way)
    assert tokens(replies) == alone(answering, shown, way)
    for one in replies:
        for reply in one:
            assert reply.new_tokens == len(reply.tokens) <= way.max_new_tokens
            assert reply.text == answering.loaded.chat(way.template).decode(reply.tokens)


def test_the_answers_of_the_mixes_differ_and_end_on_their_own():
    replies = [r for seed in range(8) for one in engine().answer(drawn(seed), WAY) for r in one]
    assert len({r.tokens for r in replies}) > len(replies) / 2
    assert any(r.new_tokens < WAY.max_new_tokens for r in replies)


def test_a_medium_is_encoded_once_and_its_prefix_prefilled_once():
    answering = engine()
    shown = [medium(VIDEO, TEN, 1), medium(VIDEO, TEN, 2)]
    with watched(answering) as seen:
        replies = answering.answer(shown, WAY)
    assert seen.frames == [16]
    visual = answering.loaded.family.visual(answering.model.config)[VIDEO].count
    long = [shape for shape in seen.words if shape[1] > visual]
    assert long == [(2, long[0][1])]  # both prefixes together, once; nothing else holds the visual tokens
    assert tokens(replies) == alone(answering, shown, WAY)


def test_prefixes_go_as_far_as_the_ids_agree():
    """Also into the questions, and one id of each is left to ask with."""
    answering = engine(batch=8)
    chat = answering.loaded.chat("v1")
    prompts = ["How many bars are there", "How many bars are yellow", "How many bars are there"]
    ids = [chat.prompt(p, (IMAGE,)) for p in prompts]
    common = next(n for n in range(len(ids[0])) if ids[0][n] != ids[1][n])
    with watched(answering) as seen:
        answering.answer([medium(IMAGE, prompts, 3)], WAY)
    assert seen.words[:2] == [(1, common), (3, max(map(len, ids)) - common)]
    with watched(answering) as seen:
        answering.answer([medium(IMAGE, ["the same"] * 3, 3)], WAY)
    assert seen.words[:2] == [(1, len(chat.prompt("the same", (IMAGE,))) - 1), (3, 1)]


def test_long_lists_are_batched_in_turn_over_the_same_prefix():
    answering = engine(batch=4)
    with watched(answering) as seen:
        replies = answering.answer([medium(VIDEO, TEN, 1)], WAY)
    assert [rows for rows, length in seen.words if length > 1] == [1, 4, 4, 2]
    assert max(rows for rows, _ in seen.words) == 4
    assert tokens(replies) == alone(answering, [medium(VIDEO, TEN, 1)], WAY)


def test_rows_that_ended_leave_the_batch():
    loaded = tiny_model()
    answering, way, shown = LocalEngine(loaded, "fp32", 10), Way("v1", "pad", 20), [medium(VIDEO, TEN, 1)]
    long = tokens(answering.answer(shown, way))[0]
    loaded.model.generation_config.eos_token_id = [2, *(answer[2] for answer in long[:6])]
    with watched(answering) as seen:
        replies = answering.answer(shown, way)
    lengths = sorted(r.new_tokens for r in replies[0])
    assert lengths[5] < lengths[-1]
    steps = [rows for rows, length in seen.words if length == 1]
    assert steps[0] == 10
    assert min(steps) <= 5
    assert steps == sorted(steps, reverse=True)
    assert len(steps) == min(lengths[-1], way.max_new_tokens - 1)  # none after the last answer has ended
    assert tokens(replies) == alone(answering, shown, way)


class Last(Template):
    """A template that writes the question before the medium."""

    def ask(self, question, kinds):
        pieces = list(super().ask(question, ()))
        media = [Piece("<m>", medium=kind) for kind in kinds]
        return iter([*pieces[:-1], *media, pieces[-1]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_before_its_medium_shares_what_is_before_it(family, monkeypatch):
    monkeypatch.setitem(TEMPLATES, "last", Last("last", "See."))
    answering, way = engine(family), Way("last", "pad", 8)
    shown = [medium(VIDEO, TEN[:3], 1), medium(IMAGE, TEN[:2], 2), medium(None, TEN[:2], 3)]
    visual = answering.loaded.family.visual(answering.model.config)[VIDEO].count
    with watched(answering) as seen:
        replies = answering.answer(shown, way)
    assert seen.words[0][1] < 20
    assert max(length for _, length in seen.words) > visual
    assert tokens(replies) == alone(answering, shown, way)


def test_a_prompt_that_shares_nothing_with_another_one(monkeypatch):
    class Bare(Template):
        def ask(self, question, kinds):
            return iter([Piece(question), *(Piece("<m>", medium=kind) for kind in kinds)])

    monkeypatch.setitem(TEMPLATES, "bare", Bare("bare"))
    answering, way = engine(), Way("bare", "pad", 8)
    shown = [medium(VIDEO, ["Ten bars", "How many"], 1), medium(None, ["What", "Ten", "How many of"], 2)]
    assert tokens(answering.answer(shown, way)) == alone(answering, shown, way)


def test_every_end_of_the_generation_config_ends_an_answer():
    loaded = tiny_model()
    answering = LocalEngine(loaded, "fp32", 4)
    shown = [medium(VIDEO, TEN[:4], 1)]
    before = tokens(answering.answer(shown, WAY))[0]
    ends = [before[0][2], before[1][1]]
    loaded.model.generation_config.eos_token_id = [2, *ends]
    after = tokens(answering.answer(shown, WAY))[0]
    assert [after] == alone(answering, shown, WAY)
    assert len(after[0]) <= 2
    assert len(after[1]) <= 1
    assert not {*ends, 2} & {t for answer in after for t in answer}


def test_what_cannot_be_asked_fails_alone():
    answering = engine()
    good = medium(VIDEO, TEN[:2], 1)
    few = Shown(VIDEO, good.frames[:5], ("What?", "Why?"))
    torn = Shown(IMAGE, (b"no picture",), ("What?",))
    none = medium(None, ["What?"], 1)
    replies = answering.answer([few, good, torn, none], WAY)
    assert [r.failed for r in replies[0]] == ["5 frames for a model that takes 8"] * 2
    assert replies[2][0].failed
    assert replies[2][0].text == ""
    assert tokens([replies[1], replies[3]]) == alone(answering, [good, none], WAY)
    plain = answering.answer([good, none], Way("plain", "pad", 4))
    assert not plain[0][0].failed
    assert "takes a medium's caption" in plain[1][0].failed


def test_nothing_to_ask_is_no_work():
    assert engine().answer([], WAY) == []
    with watched(engine()) as seen:
        assert engine().answer([medium(VIDEO, [], 1), medium(None, [], 2)], WAY) == [[], []]
    assert (seen.words, seen.frames) == ([], [])


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_answers_and_keeps_positions_exact(family):
    answering = engine(family, "bf16", 3)
    assert {p.dtype for p in answering.model.parameters()} == {torch.bfloat16}
    assert answering.model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    shown = drawn(5)
    first, second = (answering.answer(shown, WAY) for _ in range(2))
    assert first == second
    assert all(r.tokens for one in first for r in one)


def test_media_far_apart_in_length_share_a_batch():
    """Prefixes of any length beside each other, and groups of media of more than one."""
    shown = [medium(kind, TEN[:3], n) for n, kind in enumerate([None, VIDEO, IMAGE, VIDEO, None, IMAGE])]
    answering = engine("video_llava", "fp32", 18)
    with watched(answering) as seen:
        replies = answering.answer(shown, WAY)
    assert max(rows for rows, _ in seen.words) == 18
    assert tokens(replies) == alone(answering, shown, WAY)


def test_a_language_model_with_a_sliding_window_is_refused():
    loaded = tiny_model(family="llava_onevision")
    text = loaded.config.text_config
    text.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(RequestError, match="layers of sliding_attention"):
        LocalEngine(loaded, "fp32", 4)


def test_a_split_is_a_plain_record():
    split = Split(4, (3, 9), (1,))
    assert Split.of(split.row()) == split
    assert split.row() == {"batch": 4, "questions": [3, 9], "media": [1]}
    assert MediumKind.VIDEO is VIDEO


@pytest.mark.parametrize("recipe", ["antialias", "reference"])
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_frames_made_ready_ahead_are_shown_as_the_encoded_ones(recipe, aspect):
    loaded = tiny_model()
    loaded.card = replace(loaded.card, pixels=recipe)
    answering, way = LocalEngine(loaded, "fp32", 4), Way("v1", aspect, 4)
    wide = replace(medium(IMAGE, TEN[:2], 7), frames=(picture(5, (60, 40)),))
    for one in (medium(VIDEO, TEN[:2], 1), wide):
        made = replace(one, frames=ready(loaded.look(aspect), one.frames, one.kind))
        assert is_ready(made.frames)
        assert not is_ready(one.frames)
        pixels = [answering.pixels(shown.frames, one.kind, aspect) for shown in (one, made)]
        assert torch.equal(*pixels)
        assert answering.answer([made], way) == answering.answer([one], way)


def test_frames_made_ready_for_another_model_are_refused():
    one = medium(IMAGE, TEN[:1], 1)
    other = replace(one, frames=ready(Look(side=56), one.frames, IMAGE))
    ((reply,),) = engine().answer([other], WAY)
    assert reply.failed == "a frame was made ready for another model"


def test_frames_are_made_ready_without_torch():
    code = "import sys, raypipe.model.pictures, raypipe.evaluate.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
