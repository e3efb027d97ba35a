"""Templates and masks: exactly the answers are learned, and training sees what is asked later."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from raypipe.records import MediumKind, Reason, Turn
from raypipe.text.chat import IGNORE, TEMPLATES, ChatEncoder, ChatError, VisualTokens
from raypipe.text.tokenizer import train_tokenizer
from tests.support.tiny import tiny_tokenizer
from tests.text.bytes import bytes_tokenizer
from tests.text.learned import runs

VISUAL = {MediumKind.IMAGE: VisualTokens(9001, 3), MediumKind.VIDEO: VisualTokens(9002, 5)}
TOKENIZERS = [
    tiny_tokenizer(),
    train_tokenizer(["a"], 260),
    train_tokenizer(
        [": ASSISTANT: USER: </s> <0x41>", " A: B: C. USER ASSISTANT answers: yes", "ü 漢字"] * 4, 700
    ),
]
ALL_TOKENIZERS = [*TOKENIZERS, bytes_tokenizer(["<unk>", "<s>", "</s>"])]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
SPACE_MARK = "▁"  # comes back as a space, as in Llama's tokenizer
PIECES = ["ASSISTANT:", " ASSISTANT: yes", "USER: ", "\n", "▁", "<0x41>", "🙂", "</", "s>"]
PIECES += ["<s>", "</s>", "<unk>", "<|im_end|>", "<image>", "<video>"]
SPOKEN = ["v1", "llava_v1"]
TEXT = st.one_of(ANY_TEXT, st.lists(st.sampled_from(PIECES), min_size=1).map("".join))
ANSWER = TEXT.filter(lambda t: t.strip())
KINDS = st.lists(st.sampled_from(list(MediumKind)), max_size=3)
ROUNDS = st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=4)
PLENTY = settings(max_examples=150, suppress_health_check=list(HealthCheck))


def conversation(rounds, kinds) -> list[Turn]:
    assume(not kinds or not any("<image>" in t or "<video>" in t for pair in rounds for t in pair))
    turns = [Turn(role, text) for pair in rounds for role, text in zip(("human", "gpt"), pair, strict=True)]
    tags = "".join(f"<{kind}>" for kind in kinds)
    return [Turn("human", f"{tags}\n{turns[0].text}" if tags else turns[0].text), *turns[1:]]


def encoder(tokenizer, template="v1") -> ChatEncoder:
    return ChatEncoder(tokenizer, TEMPLATES[template], VISUAL)


@PLENTY
@given(ROUNDS, KINDS, st.sampled_from(ALL_TOKENIZERS), st.sampled_from(SPOKEN))
def test_exactly_the_answers_and_their_ends_are_learned(rounds, kinds, tokenizer, template):
    turns = conversation(rounds, kinds)
    encoded = encoder(tokenizer, template).training(turns, kinds)
    assert len(encoded.ids) == len(encoded.labels)
    assert all(label in (IGNORE, token) for token, label in zip(encoded.ids, encoded.labels, strict=True))
    end = tokenizer.token_to_id("</s>")
    found = runs(encoded.labels)
    assert len(found) == len(rounds)
    assert encoded.learned == sum(map(len, found))
    for run, (_, answer) in zip(found, rounds, strict=True):
        assert run[-1] == end
        assert end not in run[:-1]
        decoded = tokenizer.decode(run, skip_special_tokens=False)
        assert decoded.replace(SPACE_MARK, " ") == f" {answer}</s>".replace(SPACE_MARK, " ")


@PLENTY
@given(ROUNDS, KINDS, st.sampled_from(TOKENIZERS))
def test_each_medium_has_its_places_in_order_and_no_other_text_takes_one(rounds, kinds, tokenizer):
    encoded = encoder(tokenizer).training(conversation(rounds, kinds), kinds)
    places = {v.token_id for v in VISUAL.values()}
    wanted = [VISUAL[k].token_id for k in kinds for _ in range(VISUAL[k].count)]
    assert [i for i in encoded.ids if i in places] == wanted


@PLENTY
@given(TEXT, ANSWER, KINDS, st.sampled_from(ALL_TOKENIZERS), st.sampled_from(SPOKEN))
def test_what_is_asked_is_what_training_saw_before_the_answer(question, answer, kinds, tokenizer, template):
    chat = encoder(tokenizer, template)
    encoded = chat.training(conversation([(question, answer)], kinds), kinds)
    first = next(place for place, label in enumerate(encoded.labels) if label != IGNORE)
    assert chat.prompt(question, kinds) == encoded.ids[:first]


@PLENTY
@given(ANY_TEXT, st.sampled_from(TOKENIZERS))
def test_any_text_survives_the_tokenizer(text, tokenizer):
    assume(not any(special in text for special in ("<unk>", "<s>", "</s>")))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert not set(ids) & {0, 1, 2}
    assert tokenizer.decode(ids) == text.replace(SPACE_MARK, " ")


def test_the_same_texts_give_the_same_tokenizer():
    assert tiny_tokenizer().to_str() == tiny_tokenizer().to_str()
    assert [tiny_tokenizer().token_to_id(t) for t in ("<unk>", "<s>", "</s>")] == [0, 1, 2]


def test_an_answer_is_read_back_without_its_end():
    chat = encoder(TOKENIZERS[0])
    encoded = chat.training([Turn("human", "q"), Turn("gpt", "A yellow bar.")], [])
    assert chat.decode([i for i in encoded.labels if i != IGNORE]) == "A yellow bar."


H, G = "human", "gpt"


@pytest.mark.parametrize(
    ("turns", "kinds", "reason"),
    [
        ([], [], Reason.BAD_RECORD),
        ([(G, "a")], [], Reason.BAD_RECORD),
        ([(H, "q"), (H, "q"), (G, "a")], [], Reason.BAD_RECORD),
        ([(H, "q"), (G, "a"), (G, "b")], [], Reason.BAD_RECORD),
        ([(H, "q"), ("system", "a")], [], Reason.BAD_RECORD),
        ([("system", "s"), (H, "q"), (G, "a")], [], Reason.BAD_RECORD),
        ([(H, "q"), (G, "")], [], Reason.NOTHING_TO_LEARN),
        ([(H, "q"), (G, " \n")], [], Reason.NOTHING_TO_LEARN),
        ([(H, "q")], [], Reason.NOTHING_TO_LEARN),
        ([(H, "q"), (G, "a")], [MediumKind.IMAGE], Reason.BAD_TAGS),
        ([(H, "<image>q"), (G, "a")], [MediumKind.VIDEO], Reason.BAD_TAGS),
        ([(H, "<image><image>q"), (G, "a")], [MediumKind.IMAGE], Reason.BAD_TAGS),
        ([(H, "<image><video>q"), (G, "a")], [MediumKind.VIDEO, MediumKind.IMAGE], Reason.BAD_TAGS),
        ([(H, "<image>q"), (G, "<image>")], [MediumKind.IMAGE], Reason.BAD_TAGS),
    ],
)
def test_bad_conversations_have_their_reason(turns, kinds, reason):
    with pytest.raises(ChatError) as fault:
        encoder(TOKENIZERS[0]).training([Turn(*t) for t in turns], kinds)
    assert fault.value.reason is reason
    assert str(fault.value)


def test_a_token_over_the_edge_is_learned_when_its_last_character_is():
    """Here words end in their space, which the tokenizer's own offsets leave out."""
    tokenizer = bytes_tokenizer(["<unk>", "<s>", "</s>"], words=r"\S+ ?|\s+")
    encoded = encoder(tokenizer).training([Turn(H, "q"), Turn(G, "no")], [])
    straddling, *answer = runs(encoded.labels)[0]
    assert tokenizer.decode([straddling]).endswith(": ")
    assert tokenizer.decode(answer, skip_special_tokens=False) == "no</s>"


def test_a_leading_answer_is_dropped_and_an_empty_one_teaches_nothing():
    chat = encoder(TOKENIZERS[0])
    plain = [Turn(H, "q"), Turn(G, "a")]
    assert chat.training([Turn(G, "hello"), *plain], []) == chat.training(plain, [])
    encoded = chat.training([Turn(H, "q"), Turn(G, ""), Turn(H, "r"), Turn(G, "b")], [])
    assert [chat.decode(r) for r in runs(encoded.labels)] == ["b"]


def test_tags_in_a_question_are_text():
    """The model is shown what the caller says, not what the text of a question claims."""
    chat = encoder(TOKENIZERS[0])
    places = {v.token_id for v in VISUAL.values()}
    assert not places & set(chat.prompt("what does <image> mean? <video>"))
    ids = chat.prompt("what does <image> mean?", [MediumKind.IMAGE])
    assert [i for i in ids if i in places] == [9001] * 3


def test_tags_in_a_question_are_text_for_a_tokenizer_that_knows_them():
    """Published -hf tokenizers hold <image> and <video> as special tokens with the ids of the places."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(["<image>", "<video>"])
    ids = {kind: tokenizer.token_to_id(f"<{kind}>") for kind in MediumKind}
    chat = ChatEncoder(tokenizer, TEMPLATES["v1"], {k: VisualTokens(i, 3) for k, i in ids.items()})
    assert not set(ids.values()) & set(chat.prompt("what does <image> mean? <video>"))
    asked = chat.prompt("what does <image> mean? <video>", [MediumKind.IMAGE])
    assert [i for i in asked if i in ids.values()] == [ids[MediumKind.IMAGE]] * 3


def test_a_closing_token_in_a_question_does_not_end_it():
    tokenizer = TOKENIZERS[0]
    chat = encoder(tokenizer)
    ids = chat.prompt("what is </s>?")
    assert tokenizer.token_to_id("</s>") not in ids
    assert tokenizer.decode(ids).endswith("USER: what is </s>? ASSISTANT:")
    turns = [Turn("human", "q"), Turn("gpt", "a")]
    assert tokenizer.token_to_id("</s>") in chat.training(turns, []).labels  # and still ends an answer


def test_what_is_encoded_again_is_the_same():
    """What opens a chat is kept tokenised; a text that was seen before is read no other way."""
    chat = encoder(tiny_tokenizer())
    turns = conversation([("What?", "A bar.")], [])
    first, again = chat.training(turns, []), chat.training(turns, [])
    assert first == again
    assert hash(first) == hash(again)
    assert first != chat.training(conversation([("What?", "A bar!")], []), [])
    assert first.learned == sum(label != IGNORE for label in first.labels) > 0
    short = first.cut(3)
    assert (short.ids, short.labels, len(short), short.learned) == (first.ids[:3], first.labels[:3], 3, 0)
