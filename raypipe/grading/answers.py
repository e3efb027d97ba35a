"""Reads a reply the way the official scorers do: text in, a comparable answer out.

Every oddity that a published score depends on is kept, and named where it stands.
"""

from __future__ import annotations

import re

UNREADABLE = "FAILED"
LETTERS = "ABCDE"

_ANSWER_IS = re.compile("The answer is ([A-Z]).")  # any character may follow, as officially


def yes_or_no(reply: str) -> str:
    """POPE's reading (RUCAIBox/POPE ``evaluate.py``): "no" if a word says so, else "yes".

    Only the text before the first full stop counts, commas are dropped, words are what single spaces
    part, and only ``No``, ``no`` and ``not`` are negative. So "NO", "nothing" and an empty reply read
    as "yes", as they do officially.
    """
    words = reply.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def first_yes_or_no(reply: str) -> str:
    """MME's reading (the release's calculator): "yes", "no", or ``FAILED``, which is always wrong.

    Case does not count. Unless the reply is exactly one of the two, "yes" and then "no" is looked for
    anywhere in its first four characters: "not" and "know" read as "no", "eyes" as "yes", and "It is
    no" as neither, as they do officially.
    """
    start = reply.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), UNREADABLE)


def short_answer(reply: str) -> str:
    """GQA's reading (LLaVA ``convert_gqa_for_eval.py``): lower case, without full stops at the end."""
    return reply.rstrip(".").lower()


def option_letter(reply: str) -> str:
    """ScienceQA's reading (LLaVA ``eval_science_qa.py``): an option letter, or ``FAILED``.

    Three forms are read: the letter alone, ``B. text``, and ``The answer is B.`` if it occurs exactly
    once. "B is right" is not read, as officially. In the third form any character but a line's end may
    stand for the full stop, so that "The answer is B, I think" and "The answer is Bees" are B and a letter
    at the very end is not read; it may name a letter past E, which is no option and never right.
    """
    if len(reply) == 1 and reply in LETTERS:
        return reply
    if len(reply) >= 3 and reply[0] in LETTERS and reply[1:3] == ". ":
        return reply[0]
    named = _ANSWER_IS.findall(reply)
    return named[0] if len(named) == 1 else UNREADABLE


def judged_correct(pred: object) -> bool | None:
    """The reference judge's yes or no (``eval_video_qa.py``): "yes" anywhere wins over "no"; else None."""
    text = pred.lower() if isinstance(pred, str) else ""
    if "yes" in text:
        return True
    return False if "no" in text else None


def judged_score(score: object) -> int | None:
    """The reference judge's score as its scorer takes it: a number is cut to a whole one (4.8 is 4).

    Text must be a whole number ("4.8" is none). None if it cannot be read or lies outside 0..5.
    """
    if isinstance(score, bool) or not isinstance(score, int | float | str):
        return None
    try:
        whole = int(score)
    except (ValueError, OverflowError):
        return None
    return whole if 0 <= whole <= 5 else None
