"""The tokenizer of a sentencepiece file (tokenizer.model), with the ids of the slow Llama tokenizer.

That one, in its legacy mode, cuts a text at the special tokens and gives each piece to sentencepiece, which
puts a space mark in front. Byte-pair merges are made again from the scores of the pieces.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from raypipe.errors import RequestError

SPIECE = "tokenizer.model"
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # types of pieces
BPE = 2  # type of model


def folder_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: its tokenizer.json, or else made from its tokenizer.model.

    Raises:
        RequestError: neither is there, or it cannot be read or converted exactly.
    """
    fast = folder / "tokenizer.json"
    if fast.exists():
        try:
            return Tokenizer.from_file(str(fast))
        except Exception as fault:  # the library raises a bare Exception
            raise RequestError(f"{fast} cannot be read: {str(fault)[:200]}") from fault
    if not (folder / SPIECE).exists():
        raise RequestError(
            f"{folder} has neither tokenizer.json nor {SPIECE}", "copy the tokenizer's files into it"
        )
    tokenizer = llama_tokenizer(folder / SPIECE)
    added = folder / "added_tokens.json"
    if added.exists():
        _add(tokenizer, added)
    return tokenizer


def llama_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer from a sentencepiece file of Llama's kind.

    Raises:
        RequestError: no such file, or one that would not give the same ids.
    """
    try:
        pieces = _read(file)
    except (OSError, ValueError, KeyError, IndexError, TypeError, struct.error) as fault:
        raise RequestError(f"{file} is no sentencepiece file of Llama's kind: {fault}") from fault
    vocabulary = {text: number for number, (text, _, _) in enumerate(pieces)}
    unknown = next(text for text, _, kind in pieces if kind == UNKNOWN)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(pieces, vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=any(kind == BYTE for _, _, kind in pieces),
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [text for text, _, kind in pieces if kind in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    if "<s>" in vocabulary:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    return tokenizer


def _add(tokenizer: Tokenizer, file: Path) -> None:
    """Tokens that were added later, at the ids that their file says."""
    try:
        listed = sorted(json.loads(file.read_text(encoding="utf-8")).items(), key=lambda item: item[1])
    except (ValueError, AttributeError, TypeError) as fault:
        raise RequestError(f"{file} is no table of added tokens") from fault
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text, _ in listed])
    wrong = [text for text, number in listed if tokenizer.token_to_id(text) != number]
    if wrong:
        raise RequestError(f"{file}: '{wrong[0]}' cannot have the id that is asked for")


def _merges(pieces: list[tuple[str, float, int]], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs that make each piece, best piece first; of one piece, those of its commonest parts first."""
    mergeable = {text for text, _, kind in pieces if kind == NORMAL}
    ranked = sorted(
        (-score, number, text) for number, (text, score, kind) in enumerate(pieces) if kind == NORMAL
    )
    merges: list[tuple[str, str]] = []
    for _, _, text in ranked:
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [(a, b) for a, b in pairs if a in mergeable and b in mergeable]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def _read(file: Path) -> list[tuple[str, float, int]]:
    """Pieces (text, score, type) of a sentencepiece file, by id.

    Raises:
        ValueError: not such a file, or it normalises texts or merges in a way that is not Llama's.
    """
    pieces: list[tuple[str, float, int]] = []
    kind, wanted = 1, {"identity": True, "dummy prefix": True, "kept spaces": False}
    for number, value in _fields(file.read_bytes()):
        body = dict(_fields(value)) if number in (1, 2, 3) and isinstance(value, bytes) else {}
        if number == 1:
            text, score = body[1], body.get(2, b"\0\0\0\0")
            if isinstance(text, int) or isinstance(score, int):
                raise ValueError("a piece has no text")
            pieces.append((text.decode(), struct.unpack("<f", score)[0], int(body.get(3, NORMAL))))
        elif number == 2:
            kind = int(body.get(3, 1))
        elif number == 3:
            wanted["identity"] = not body.get(2)
            wanted["dummy prefix"] = bool(body.get(3, 1))
            wanted["kept spaces"] = not body.get(4, 1)
    if kind != BPE:
        raise ValueError("it is not a byte-pair model")
    lacks = [name for name, there in wanted.items() if not there]
    if lacks:
        raise ValueError(f"its normaliser lacks: {', '.join(lacks)}")
    if sum(k == UNKNOWN for _, _, k in pieces) != 1 or len({t for t, _, _ in pieces}) != len(pieces):
        raise ValueError("its pieces are not unique, or none is for the unknown")
    other = [text for text, _, k in pieces if k not in (NORMAL, UNKNOWN, CONTROL, BYTE)]
    if other:
        raise ValueError(f"it has pieces of the user's own ({other[0]!r})")
    return pieces


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of each field of a protobuf message: an int, or the bytes of anything else."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire = tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, place = _varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("not a protobuf message")
        if place + size > len(data):
            raise ValueError("it is cut short")
        yield tag >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("not a protobuf message")
