"""The protocol's ids and labels once more, written as plainly as can be and without raypipe's own code.

Turns are (role, text) pairs, kinds "image" and "video". The golden tests' conventions: -200 for each image
and eight of them for a video.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer

IGNORE, PLACE, END = -100, -200, "</s>"
PLACES = {"image": 1, "video": 8}
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class Rejected(Exception):
    """The protocol has no use for the conversation, or raypipe's stated rules refuse it."""


def accepted(turns, kinds):
    """The turns that count; Rejected where roles, tags or answers are not as they have to be."""
    turns = turns[1:] if turns and turns[0][0] == "gpt" else turns
    if not turns or any(role != ("human", "gpt")[n % 2] for n, (role, _) in enumerate(turns)):
        raise Rejected("roles")
    if all(text.strip() == "" for role, text in turns if role == "gpt"):
        raise Rejected("nothing to learn")
    if kinds:
        if any("<image>" in text or "<video>" in text for role, text in turns if role == "gpt"):
            raise Rejected("a tag in an answer")
        if tags_of("".join(text + "\n" for role, text in turns if role == "human")) != list(kinds):
            raise Rejected("tags and media")
    return turns


def tags_of(text):
    found = []
    for start in range(len(text)):
        found += [kind for kind in PLACES if text.startswith(f"<{kind}>", start)]
    return found


def right_labels(turns, kinds, tokenizer):
    """What is right: special tokens in a text are text; every answer and its end is learned.

    Nothing is looked up by offsets: the text up to an answer is tokenised again without the answer, and
    what the answer adds is what is learned.
    """
    body = json.loads(tokenizer.to_str())
    bos, eos = tokenizer.token_to_id("<s>"), tokenizer.token_to_id(END)
    plain = Tokenizer.from_str(json.dumps({**body, "added_tokens": [], "post_processor": None}))

    def tokens(text):
        return plain.encode(text).ids if text else []

    ids, labels = [bos], [IGNORE]

    def write(new, learned=False):
        ids.extend(new)
        labels.extend(new if learned else [IGNORE] * len(new))

    waiting = SYSTEM + " "
    for role, text in accepted(turns, kinds):
        if role == "human":
            waiting += "USER: "
            for character_run, kind in _around_tags(text, kinds):
                waiting += character_run
                if kind:
                    write(tokens(waiting))
                    write([PLACE] * PLACES[kind])
                    waiting = ""
            waiting += " "
        else:
            waiting += "ASSISTANT:"
            if text:
                asked, answered = tokens(waiting), tokens(waiting + " " + text)
                assert answered[: len(asked)] == asked  # else this way of looking is no way
                write(asked)
                write([*answered[len(asked) :], eos], learned=True)
                waiting = ""
    write(tokens(waiting))
    return ids, labels


def _around_tags(text, kinds):
    """(text before a tag, the tag's kind) in order, and the rest with no kind."""
    rest = text
    while kinds and tags_of(rest):
        kind = tags_of(rest)[0]
        before, rest = rest.split(f"<{kind}>", 1)
        yield before, kind
    yield rest, None


def reference_labels(turns, kinds, tokenizer, max_length=2048):
    """The reference's own algorithm (protocol 1.6 and 1.8), mismatch rule and all.

    Gives (prompt, ids, labels, whether the rule fired, which ignores the whole sample).
    """
    turns = turns[1:] if turns and turns[0][0] == "gpt" else turns
    prompt = SYSTEM + " "
    for role, text in turns:
        if role == "human":
            prompt += f"USER: {text} "
        else:
            prompt += f"ASSISTANT: {text}{END}" if text else "ASSISTANT:"
    if kinds:
        prompt = prompt.replace("<video>", "<image>" * 8)

    def tokenise(text):
        if not kinds:
            return tokenizer.encode(text).ids
        chunks = [tokenizer.encode(chunk).ids for chunk in text.split("<image>")]
        out = chunks[0][:1]
        for number, chunk in enumerate(chunks):
            out += ([PLACE] if number else []) + chunk[1:]
        return out

    ids = tokenise(prompt)
    if not kinds:
        ids = ids[:max_length]
    total = sum(i != 0 for i in ids)
    labels, pos = list(ids), 1
    labels[0] = IGNORE
    for rnd in prompt.split(END):
        if rnd == "":
            break
        parts = rnd.split(" ASSISTANT: ")
        if len(parts) != 2:
            break
        instruction = len(tokenise(parts[0] + " ASSISTANT: ")) - 2
        labels[pos : pos + instruction] = [IGNORE] * len(labels[pos : pos + instruction])
        pos += len(tokenise(rnd))
    labels[pos:] = [IGNORE] * len(labels[pos:])
    fired = pos < max_length and pos != total
    if fired:
        labels = [IGNORE] * len(labels)
    return prompt, ids, labels, fired
