"""Qwen2's template: no opening token, ``<|im_end|>`` closes an answer and is learned, nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from raypipe.errors import RequestError
from raypipe.records import MediumKind, Turn
from raypipe.text.chat import IGNORE, TAGS, TEMPLATES, ChatEncoder, VisualTokens
from raypipe.text.tokenizer import train_tokenizer
from tests.support.tiny import TEXTS, tiny_tokenizer
from tests.text.bytes import bytes_tokenizer
from tests.text.learned import runs

CHATML = TEMPLATES["chatml"]
START, END = CHATML.tokens
SPECIAL = ("<|endoftext|>", START, END, *TAGS)
PLENTY = settings(max_examples=150, suppress_health_check=list(HealthCheck))
TOKENIZERS = [bytes_tokenizer(SPECIAL), train_tokenizer([f" {t}" for t in TEXTS], 700, special=SPECIAL)]
IDS = ["from bytes", "trained on the spot"]
PIECES = [
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<image>",
    "user\n",
    "\n",
    " ",
]
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30)
TEXT = st.one_of(ANY, st.lists(st.sampled_from(PIECES), min_size=1).map("".join))
ROUNDS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


def encoder(tokenizer, protocol="corrected") -> ChatEncoder:
    places = {kind: VisualTokens(tokenizer.token_to_id(tag), 3) for tag, kind in TAGS.items()}
    return ChatEncoder(tokenizer, CHATML, places, protocol)


def turns_of(*texts: str) -> list[Turn]:
    return [Turn(("human", "gpt")[n % 2], text) for n, text in enumerate(texts)]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=IDS)
def test_it_is_spelled_as_transformers_spells_it(tokenizer):
    chat = encoder(tokenizer)
    turns = turns_of("<image>\nWhat moves?", "A bar.", "And now?", "Ten of them.")
    spelled = (
        "<|im_start|>user\n<image>\nWhat moves?<|im_end|>\n<|im_start|>assistant\nA bar.<|im_end|>\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\nTen of them.<|im_end|>\n"
    )
    assert chat.spelled(turns, [MediumKind.IMAGE]) == spelled
    encoded = chat.training(turns, [MediumKind.IMAGE])
    place = tokenizer.token_to_id("<image>")
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == spelled.replace(
        "<image>", "<image>" * 3
    )
    # Read as one text, special tokens parsed, as a processor does: the very same ids.
    whole = tokenizer.encode(spelled, add_special_tokens=False).ids
    at = whole.index(place)
    assert list(encoded.ids) == [*whole[:at], place, place, place, *whole[at + 1 :]]


@PLENTY
@given(ROUNDS, st.sampled_from(TOKENIZERS))
def test_answers_and_their_ends_are_learned_and_nothing_else(rounds, tokenizer):
    assume(any(answer.strip() for _, answer in rounds))
    encoded = encoder(tokenizer).training(turns_of(*(t for pair in rounds for t in pair)), [])
    assert all(label in (IGNORE, i) for i, label in zip(encoded.ids, encoded.labels, strict=True))
    found = [tokenizer.decode(run, skip_special_tokens=False) for run in runs(encoded.labels)]
    assert found == [answer + END for _, answer in rounds if answer]
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    assert encoded.ids.count(start) == encoded.ids.count(end) == 2 * len(rounds)  # none from a text
    assert sum(label == end for label in encoded.labels) == len(found)
    assert not {tokenizer.token_to_id(t) for t in ("<|endoftext|>", *TAGS)} & set(encoded.ids)


@PLENTY
@given(ROUNDS, st.sampled_from(TOKENIZERS))
def test_the_whole_conversation_comes_back_as_it_was_spelled(rounds, tokenizer):
    assume(any(answer.strip() for _, answer in rounds))
    turns = turns_of(*(t for pair in rounds for t in pair))
    chat = encoder(tokenizer)
    decoded = tokenizer.decode(chat.training(turns, []).ids, skip_special_tokens=False)
    assert decoded == chat.spelled(turns, [])


@PLENTY
@given(TEXT, TEXT, st.sampled_from(TOKENIZERS))
def test_what_is_asked_is_what_training_saw_before_the_answer(question, answer, tokenizer):
    assume(answer.strip() and not any(tag in question + answer for tag in TAGS))
    chat, kinds = encoder(tokenizer), [MediumKind.VIDEO, MediumKind.IMAGE]
    encoded = chat.training(turns_of(f"<video><image>\n{question}", answer), kinds)
    first = next(place for place, label in enumerate(encoded.labels) if label != IGNORE)
    assert chat.prompt(question, kinds) == encoded.ids[:first]


def test_an_empty_answer_is_closed_and_teaches_nothing():
    tokenizer = TOKENIZERS[0]
    encoded = encoder(tokenizer).training(turns_of("q", "", "r", "b"), [])
    assert [tokenizer.decode(run, skip_special_tokens=False) for run in runs(encoded.labels)] == ["b" + END]
    assert encoded.ids.count(tokenizer.token_to_id(END)) == 4


def test_a_tokenizer_without_the_templates_tokens_is_refused():
    with pytest.raises(RequestError) as fault:
        ChatEncoder(tiny_tokenizer(), CHATML, {})
    assert (
        fault.value.message == "the tokenizer lacks <|im_start|> and <|im_end|>, which template chatml needs"
    )
    assert fault.value.remedy == "choose template=v1|llava_v1|plain"
    with pytest.raises(RequestError) as fault:
        ChatEncoder(TOKENIZERS[0], TEMPLATES["v1"], {})
    assert fault.value.message == "the tokenizer lacks <s> and </s>, which template v1 needs"
    assert fault.value.remedy == "choose template=chatml"
