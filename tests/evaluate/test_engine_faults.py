"""A device that runs out of memory, and questions that break a batch: all others are answered."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch

from raypipe.errors import ServiceError
from raypipe.evaluate.batches import Cuts
from raypipe.evaluate.engine import Split, Way
from raypipe.evaluate.local import LocalEngine
from tests.support.shown import IMAGE, VIDEO, alone, engine, medium, tokens

WAY = Way("v1", "pad", 6)
CPU_SAID = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9"
FULL: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError(CPU_SAID),
]
QUESTIONS = [f"How many {word}?" for word in ["bars", "are", "clip", "moves", "yellow", "the Ten"]]


def mixed() -> list:
    return [
        medium(VIDEO, QUESTIONS, 1),
        medium(VIDEO, QUESTIONS[:4], 2),
        medium(IMAGE, QUESTIONS[:3], 3),
        medium(None, QUESTIONS[:2], 4),
    ]


@dataclass
class Device:
    """What went through the model, and how often it was refused."""

    fired: int = 0
    words: list[tuple[int, int]] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)


@contextmanager
def device(
    answering: LocalEngine,
    words: Callable[[torch.Tensor], bool] = lambda embeds: False,
    frames: Callable[[torch.Tensor], bool] = lambda pixels: False,
    fault: Callable[[], Exception] = FULL[0],
):
    """The model refuses what the given functions say of embeddings [rows, length, width] or pixels."""
    state, model = Device(), answering.model

    def before_words(module, args, kwargs):
        if words(kwargs["inputs_embeds"]):
            state.fired += 1
            raise fault()
        state.words.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    def before_frames(module, args):
        if frames(args[0]):
            state.fired += 1
            raise fault()
        state.frames.append(len(args[0]))

    hooks = [model.model.language_model.register_forward_pre_hook(before_words, with_kwargs=True)]
    hooks += [
        model.get_submodule(path).register_forward_pre_hook(before_frames)
        for path in dict.fromkeys(answering.loaded.family.towers.values())
    ]
    try:
        yield state
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("fault", FULL)
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_a_batch_that_does_not_fit_is_cut_until_it_does(rows, fault):
    answering, told = engine(batch=8), []
    with device(answering, lambda e: len(e) > rows and e.shape[1] < 60, fault=fault) as state:
        replies = answering.answer(mixed(), WAY, on_split=told.append)
    assert state.fired
    assert tokens(replies) == alone(answering, mixed(), WAY)
    assert len(told) == state.fired
    assert told[-1].batch == 8
    assert told[-1].questions == tuple(sorted(set(told[-1].questions)))
    for before, after in pairwise(told):
        assert set(before.questions) < set(after.questions)


def test_a_cut_is_told_before_the_engine_goes_on():
    answering, at = engine(batch=8), []
    with device(answering, lambda e: len(e) > 4 and e.shape[1] < 60) as state:
        answering.answer(mixed(), WAY, on_split=lambda split: at.append((state.fired, len(state.words))))
        assert [fired for fired, _ in at] == list(range(1, state.fired + 1))
    assert at[0][1] == 1  # the prefixes of the first group were made; nothing after the fault


@pytest.mark.parametrize("batch", [8, 3])
def test_a_split_given_back_makes_the_same_batches(batch):
    """Also in an engine that is set to another batch size now, and with no fault this time."""
    answering, told = engine(batch=8), []
    full = {"words": lambda e: len(e) > 3 and e.shape[1] < 60, "frames": lambda p: len(p) > 8}
    with device(answering, **full) as first:
        replies = answering.answer(mixed(), WAY, on_split=told.append)
    assert first.fired
    again = LocalEngine(answering.loaded, "fp32", batch)
    with device(again, **full) as second:
        assert again.answer(mixed(), WAY, split=Split.of(told[-1].row()), on_split=told.append) == replies
    assert second.fired == 0
    assert told[-1].questions
    assert told[-1].media
    with device(again) as third:  # with room for all of it, too
        assert again.answer(mixed(), WAY, split=told[-1]) == replies
    assert third.words == second.words
    assert third.frames == second.frames


def test_what_was_answered_before_the_cut_is_not_asked_again():
    answering = engine(batch=4)
    shown, calls = [medium(VIDEO, QUESTIONS, 1), medium(VIDEO, QUESTIONS, 2)], []

    def third_batch(embeds):
        calls.append(len(embeds))
        return calls.count(4) == 1 + 2 * WAY.max_new_tokens and len(embeds) == 4

    with device(answering, third_batch) as state:
        replies = answering.answer(shown, WAY)
    assert state.fired == 1
    begun = [rows for rows, length in state.words if 1 < length < 60]
    assert sum(begun) == 12, "a question was asked twice, or not at all"
    assert tokens(replies) == alone(answering, shown, WAY)


@pytest.mark.parametrize("fault", [*FULL, lambda: RuntimeError("a kernel said no")])
def test_a_single_question_that_cannot_be_answered_fails_and_nothing_else(fault):
    answering, told = engine(batch=8), []
    shown = mixed()
    chat = answering.loaded.chat("v1")
    ids = [set(chat.prompt(question, (VIDEO,))) for question in QUESTIONS]
    only = ids[4].difference(*ids[:4], ids[5]).pop()
    poison = answering.model.get_input_embeddings()(torch.tensor(only)).detach()

    def is_poison(embeds):
        return 1 < embeds.shape[1] < 60 and bool((embeds == poison).all(-1).any())

    with device(answering, is_poison, fault=fault) as state:
        replies = answering.answer(shown, WAY, on_split=told.append)
    assert state.fired > 1
    assert told
    failed = [(n, m) for n, one in enumerate(replies) for m, r in enumerate(one) if r.failed]
    assert failed == [(0, 4)]
    assert replies[0][4].text == ""
    assert replies[0][4].failed in str(fault())
    expected = alone(answering, shown, WAY)
    expected[0][4] = ()
    assert [[r.tokens for r in one] for one in replies] == expected


@pytest.mark.parametrize("fault", FULL)
def test_media_that_do_not_fit_together_are_encoded_fewer_at_once(fault):
    answering, told = engine(batch=16), []
    shown = [medium(VIDEO, QUESTIONS[:2], n) for n in range(5)]
    with device(answering, frames=lambda p: len(p) > 16, fault=fault) as state:
        replies = answering.answer(shown, WAY, on_split=told.append)
    assert state.fired
    assert max(state.frames) <= 16
    assert sum(state.frames) == 40
    assert told[-1].media
    assert not told[-1].questions
    assert tokens(replies) == alone(answering, shown, WAY)


def test_prefixes_that_do_not_fit_together_are_made_fewer_at_once():
    answering, told = engine(batch=16), []
    shown = [medium(VIDEO, QUESTIONS[:2], n) for n in range(5)]
    with device(answering, lambda e: e.shape[1] >= 60 and len(e) > 1) as state:
        replies = answering.answer(shown, WAY, on_split=told.append)
    assert state.fired
    assert told[-1].media == (1, 2, 3, 4)
    assert tokens(replies) == alone(answering, shown, WAY)


def test_a_medium_that_fits_only_by_itself_has_the_place_for_itself():
    """No prefix fits while another one is held: batches end up with one medium each, and all is answered."""
    answering = engine(batch=6)
    shown = [medium(VIDEO, QUESTIONS[:3], n) for n in range(3)]
    held = _calls_of(answering)

    def beside_another(embeds):
        return embeds.shape[1] >= 60 and (len(embeds) > 1 or len(held()) > 0)

    with device(answering, beside_another) as state:
        replies = answering.answer(shown, WAY)
    assert state.fired
    assert tokens(replies) == alone(answering, shown, WAY)


def test_a_medium_that_never_fits_loses_its_own_questions_only():
    answering = engine(batch=8)
    shown = mixed()
    large = answering.pixels(shown[1].frames, VIDEO, "pad")[0]
    with device(answering, frames=lambda p: bool((p == large).all(-1).all(-1).all(-1).any())) as state:
        replies = answering.answer(shown, WAY)
    assert state.fired
    assert all("out of memory" in r.failed for r in replies[1])
    expected = alone(answering, shown, WAY)
    for n in (0, 2, 3):
        assert tokens([replies[n]]) == [expected[n]]


def test_nothing_of_a_failed_batch_is_held_while_the_next_is_tried():
    """Else a device that was full once would stay full: the fault's own traceback holds the batch."""
    import gc
    import weakref

    answering, batches, left = engine(batch=8), [], []

    def note(embeds):
        gc.disable()  # what is let go has to go by itself
        if len(embeds) > 2 and embeds.shape[1] < 60:
            batches.append(weakref.ref(embeds))
            return True
        left.extend(ref() is not None for ref in batches)
        return False

    try:
        with device(answering, note) as state:
            answering.answer(mixed(), WAY)
    finally:
        gc.enable()
    assert state.fired
    assert left
    assert not any(left)


def _calls_of(answering):
    """The prefixes that the engine holds at the moment, found through the call that holds them."""
    import sys

    from raypipe.evaluate.local import _Call

    def held():
        frame = sys._getframe()
        while frame:
            mine = frame.f_locals.get("self")
            if isinstance(mine, _Call):
                return mine._held
            frame = frame.f_back
        return {}

    return held


@pytest.mark.parametrize(("alive", "memory"), [(True, False), (False, False), (False, True)])
def test_a_gpu_that_is_lost_stops_the_run_and_is_not_taken_for_bad_questions(alive, memory, monkeypatch):
    from raypipe.evaluate.local import _Call, _Fault

    done = []

    def synchronize():
        done.append("asked")
        if not alive:
            raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    fault = _Fault("an illegal memory access was encountered", memory)
    call = _Call(engine(), [], WAY, Cuts(Split(), 4, None))
    if alive or memory:
        call._look_after(fault)
        assert done == (["emptied"] if memory else ["asked"])
    else:
        with pytest.raises(ServiceError, match="the GPU is lost: an illegal memory access") as raised:
            call._look_after(fault)
        assert raised.value.exit_code == 5
