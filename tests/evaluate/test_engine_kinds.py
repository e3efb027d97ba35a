"""Every kind of model answers through the engine, as it does one question at a time and as written out."""

import pytest
import torch

from raypipe.evaluate.engine import Way
from raypipe.evaluate.local import load_engine
from raypipe.model.describe import describe_model
from raypipe.model.lora import merge
from tests.model import naive
from tests.model.answers import with_lora
from tests.support.kinds import KINDS, models
from tests.support.shown import IMAGE, VIDEO, alone, medium, tokens

QUESTIONS = ["what happens in the clip", "a yellow bar", "what moves", "what"]


@pytest.fixture(scope="module")
def named(tmp_path_factory, originals):
    return models(tmp_path_factory.mktemp("kinds"), originals)


def asked(model, base, **more):
    card, _ = describe_model(model, base)
    way = Way(card.template, card.image_aspect, more.get("max_new_tokens", 6))
    shown = [medium(VIDEO, QUESTIONS, 1), medium(IMAGE, QUESTIONS[:2], 2), medium(None, QUESTIONS[:2], 3)]
    answering = load_engine(model, base, more.get("precision", "fp32"), 3)
    return answering, shown, way


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_answers_as_one_at_a_time(kind, named):
    answering, shown, way = asked(*named[kind])
    replies = tokens(answering.answer(shown, way))
    assert replies == alone(answering, shown, way)
    assert len({t for one in replies for t in one}) > 3
    assert ("lora" in kind) == any("lora_" in n for n, _ in answering.model.named_parameters())


@pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith("original")])
def test_original_layouts_answer_as_written_out_in_plain_torch(kind, named, originals):
    answering, shown, way = asked(*named[kind], max_new_tokens=4)
    weights = {
        k: t.double() for k, t in (with_lora(originals) if "lora" in kind else originals.tensors).items()
    }
    replies = answering.answer(shown, way)
    for one, mine in zip(shown, replies, strict=True):
        for prompt, reply in zip(one.prompts, mine, strict=True):
            assert reply.tokens == written_out(answering, weights, one, prompt, way)


def written_out(answering, weights, one, prompt, way) -> tuple[int, ...]:
    """Greedy by the naive forward pass over the original weights, the whole prompt anew for each token."""
    chat = answering.loaded.chat(way.template)
    ids, made = list(chat.prompt(prompt, (one.kind,) if one.kind else ())), []
    if one.kind:
        place = chat.visual[one.kind].token_id
        begin, end = ids.index(place), len(ids) - ids[::-1].index(place)
        shown = answering.pixels(one.frames, one.kind, way.aspect).double()
        pieces = [ids[:begin], (str(one.kind), shown), ids[end:]]
    else:
        pieces = [ids]
    while len(made) < way.max_new_tokens:
        made.append(int(naive.logits(weights, [*pieces[:-1], pieces[-1] + made])[-1].argmax()))
        if made[-1] == 2:
            return tuple(made[:-1])
    return tuple(made)


@pytest.mark.parametrize("kind", ["lora", "lora of a run"])
def test_an_unmerged_adapter_answers_as_the_merged_one_and_not_as_its_base(kind, named, tmp_path):
    model, base = named[kind]
    answering, shown, way = asked(model, base)
    over = tokens(answering.answer(shown, way))
    whole = str(merge(model, base, str(tmp_path / "merged")))
    assert over == tokens(load_engine(whole, None, "fp32", 3).answer(shown, way))
    assert over != tokens(load_engine(base, None, "fp32", 3).answer(shown, way))


@pytest.mark.parametrize("kind", ["lora", "original lora"])
def test_an_adapter_in_half_precision(kind, named):
    answering, shown, way = asked(*named[kind], precision="bf16")
    assert {p.dtype for p in answering.model.parameters()} == {torch.bfloat16}
    assert tokens(answering.answer(shown, way)) == tokens(answering.answer(shown, way))
