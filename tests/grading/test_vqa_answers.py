import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.grading.vqa_answers import CONTRACTIONS, normalised, processed

VECTORS = {
    "Two dogs.": "2 dogs",
    "the man's hat": "man 's hat",
    "U.S.A.": "usa",
    "1,000": "1000",
    "3.5": "3.5",
    "3.": "3",
    "0.5.": "0.5",
    "black/white": "black white",
    "well-known": "well known",
    "dont": "don't",
    "it's": "it 's",
    "none": "0",
    "a": "",
    "$5.00": "$5.00",
    "10:30 a.m.": "10:30 am",
    "left (right)": "left right",
    "What?": "what",
}
ODDITIES = {
    "a-b -c": "ab c",  # one mark beside a space, and all of its kind are deleted
    "a-b (c)": "b c",  # each kind by itself: the hyphen became a space, and "a" an article
    "an-other": "other",
    "\tTen\nmen\t": "10 men",
    "plan a": "plan",
    "NONE. Zero": "0 0",
    "eleven": "eleven",
    ".5.x.5": ".5x.5",
    "x." * 33: "x" * 32 + "x.",  # 32 full stops at most
    "She's": "she 's",
    "im": "im",  # I'm is reached by "Im" alone, and nothing is in capitals
    "couldntve": "couldntve",  # two apostrophes may not be missing
    "couldn'tve": "couldn't've",
    "couldnt've": "couldn't've",
    "y'alldve": "y'alldve",
    "yall'd've": "y'all'd've",
    "somebody'd": "somebodyd",
    "ow's'at": "ow 's'at",  # an 's is parted before contractions are looked up
    "thats": "that's",
    "": "",
    " , ? ": "",
    "½ 3.٣": "½ 3.٣",  # digits of every script protect a full stop
}

texts = st.text(st.sampled_from("ab's.,?!-/ \n\t0912hewotT'İΣ") | st.characters(), max_size=40)
words = st.lists(
    st.sampled_from([*CONTRACTIONS, *CONTRACTIONS.values(), "none", "A", "ten", "'.s", "'s", "1,0", "x."])
)
replies = texts | words.map(" ".join) | words.map("".join) | words.map("-".join)


@pytest.mark.parametrize(("reply", "answer"), [*VECTORS.items(), *ODDITIES.items()])
def test_processed(reply, answer):
    assert processed(reply) == answer


def test_contractions_are_as_many_as_in_the_reference():
    assert (len(CONTRACTIONS), len(set(CONTRACTIONS.values()))) == (120, 98)
    assert sum(key != key.lower() for key in CONTRACTIONS) == 4
    assert {"Im", "Ive", "Id've", "I'dve"} == {key for key in CONTRACTIONS if key != key.lower()}
    assert all(key == value for key, value in CONTRACTIONS.items() if key in ("let's", "she's"))


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("The man's hat", "man's hat"),  # an 's is left where it is
        ("1,000 a-b", "1000 ab"),  # a comma between digits deletes every mark
        ("a, b-c", "b c"),
        ("What?", "what"),
        ("so,so", "so so"),
        ("Two.", "2"),
    ],
)
def test_normalised_does_without_the_first_steps(answer, same):
    assert normalised(answer) == same


def _twice_differs(answer: str) -> bool:
    return re.search(r"\S's", answer) is not None or re.search(r"\.(?!\d)", answer) is not None


@given(replies)
@example("x." * 33)
@example("thats")
@example("'ows'at")
@example("man'.s")
@example("that's")
def test_processing_twice_changes_just_the_two_kinds_that_are_named(reply):
    once = processed(reply)
    assert (processed(once) != once) == _twice_differs(once)


@given(replies)
def test_an_s_is_left_inside_a_word_by_the_named_replies_alone(reply):
    once = processed(reply)
    inside = [word for word in once.split() if "'s" in word[1:]]
    from_table = {value for value in CONTRACTIONS.values() if "'s" in value[1:]}
    if not all(word in from_table for word in inside):
        assert re.search(r"'[][;/\"{}()=+\\_\-><@`,?!.]+s", reply.lower())


def test_the_named_words_are_all_of_them():
    changed = {key for key in CONTRACTIONS if key == key.lower() and "'s" in processed(key).split()[0][1:]}
    named = "hes hows somebodys someones thats theres whats whens wheres whos whys 'ows'at"
    assert changed == set(named.split())


@given(st.integers(0, 70))
def test_at_most_32_full_stops_go(count):
    assert processed("." * count) == "." * max(0, count - 32)


@given(replies)
def test_a_result_is_words_parted_by_single_spaces(reply):
    once = processed(reply)
    assert once == " ".join(once.split())
    assert not set(once) & set(';/[]"{}()=+\\_-><@`,?!')
    assert not {"a", "an", "the", "none", "ten"} & set(once.split())
