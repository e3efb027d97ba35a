"""A small tokenizer trained on the spot, for models that start from random weights."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<unk>", "<s>", "</s>")


def train_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
    """Byte-pair encoding over words with a leading space mark, ids 0-2 as in Llama.

    ``vocabulary`` is the most it may have; of few texts every word becomes one token before that.
    The same texts in the same order give the same tokenizer. Every byte has a token, so any text
    survives the way there and back (but for the space mark itself, which comes back as a space).
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL, *(f"<0x{b:02X}>" for b in range(256))],
        initial_alphabet=["▁"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer can only reserve the byte tokens as special ones; they are ordinary pieces of text.
    body = json.loads(tokenizer.to_str())
    body["added_tokens"] = [t for t in body["added_tokens"] if t["content"] in SPECIAL]
    return Tokenizer.from_str(json.dumps(body))
