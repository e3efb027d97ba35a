"""The answer processor of EvalAI: how VQAv2, TextVQA and VizWiz make a reply comparable.

Source: the processor in LLaVA ``llava/eval/m4c_evaluator.py``; its second half is the official VQA
evaluation's. Every oddity is kept, for the published scores were made with it:

- A mark of punctuation is deleted or becomes a space in the whole text at once, and which of the two
  depends on whether it stands beside a space anywhere in it ("a-b" is "a b", "a-b -c" is "ab c").
- A full stop goes unless a digit follows: "3.5" stays and "3." does not. At most 32 are deleted.
- "none" is 0, and the articles go wherever they stand ("plan a" is "plan").
- A word that lacks the apostrophe of a contraction gets it ("dont"); of a contraction with several
  apostrophes exactly one may be missing. Two keys hold a capital and so never match.
"""

from __future__ import annotations

import re

MOST_FULL_STOPS = 32  # a flag of value 32 is passed where the count belongs

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
# Reached by their letters alone.
ONE_APOSTROPHE = """
    'twas I'm I've ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's
    how'd how'll how's isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock
    oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's something'd
    something'll that's there'd there're there's they'd they'll they're they've wasn't we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's
    won't would've wouldn't y'all you'd you'll you're you've
"""
# Reached with exactly one apostrophe missing.
MORE_APOSTROPHES = """
    couldn't've hadn't've he'd've I'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've
    someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've
    you'd've
"""
IRREGULAR = {"let's": "let's", "she's": "she's", "somebody'd": "somebodyd"}

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")


def _contractions() -> dict[str, str]:
    table = {value.replace("'", ""): value for value in ONE_APOSTROPHE.split()}
    for value in MORE_APOSTROPHES.split():
        places = [place for place, letter in enumerate(value) if letter == "'"]
        table |= {value[:place] + value[place + 1 :]: value for place in places}
    return table | IRREGULAR


CONTRACTIONS = _contractions()


def processed(reply: str) -> str:
    """What an upload holds for a reply, and what TextVQA compares.

    Processing twice gives the same, except for two kinds of reply: one that leaves more than 32 full
    stops without a digit behind them to be deleted, and one whose result has an 's inside a word,
    where the second time parts it. The latter comes from the contractions of hes, hows, somebodys,
    someones, thats, theres, whats, whens, wheres, whos, whys and 'ows'at, or from an apostrophe and
    an s with only deleted characters between them ("man'.s").
    """
    text = reply.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalised(on_one_line(text))


def normalised(text: str) -> str:
    """The part of ``processed`` that the official VQA evaluation does: punctuation, numbers, articles."""
    words = (NUMBERS.get(word, word) for word in _without_punctuation(text).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def on_one_line(text: str) -> str:
    """Line ends and tabs as spaces, without white space around the text."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _MARKS:
        if mark in text:
            deleted = in_number or f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if deleted else " ")
    return _FULL_STOP.sub("", result, count=MOST_FULL_STOPS)
