"""A small tokenizer trained on the spot, for models that start from random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<unk>", "<s>", "</s>")


def train_tokenizer(
    texts: Iterable[str], vocabulary: int = 1024, special: Sequence[str] = SPECIAL
) -> Tokenizer:
    """Byte-pair encoding over words with a leading space mark, ids 0-2 as in Llama.

    ``special`` are its special tokens, with the ids from 0 on: a template's own (``Template.tokens``), for
    one that is not spelled with Llama's. What looks like one of them in a text is not learned as a word.

    ``vocabulary`` is the most it may have; of few texts every word becomes one token before that.
    The same texts in the same order give the same tokenizer. Every byte has a token, so any text
    survives the way there and back (but for the space mark itself, which comes back as a space).
    """
    unknown = "<unk>" if "<unk>" in special else None
    tokenizer = Tokenizer(models.BPE(unk_token=unknown, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    reserved = [*special, *(f"<0x{b:02X}>" for b in range(256))]
    # A word that is spelled like a reserved token would share its id, and a text would be read as the token.
    words = re.compile("|".join(map(re.escape, reserved)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=reserved,
        initial_alphabet=["▁"],
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for text in texts for part in words.split(text)), trainer)
    # The trainer can only reserve the byte tokens as special ones; they are ordinary pieces of text.
    body = json.loads(tokenizer.to_str())
    body["added_tokens"] = [t for t in body["added_tokens"] if t["content"] in special]
    return Tokenizer.from_str(json.dumps(body))
