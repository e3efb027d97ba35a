"""The model a stage begins with: its outline and its tokenizer. No weight is read, torch is not imported."""

from __future__ import annotations

from tokenizers import Tokenizer

from raypipe.model.llama_tokenizer import folder_tokenizer
from raypipe.model.outline import Outline, random_outline
from raypipe.model.read_outline import folder_outline, parts_outline
from raypipe.settings import Start
from raypipe.text.chat import TEMPLATES
from raypipe.text.tokenizer import SPECIAL, train_tokenizer
from raypipe.train.mixture import Mixture

TEXTS = 20_000  # samples whose texts a random model's tokenizer is trained on
VOCABULARY = 32_000  # of a random model whose data is not there yet: Llama's


def outline_of_start(start: Start, mixture: Mixture | None) -> tuple[Outline, Tokenizer | None]:
    """The outline of what ``start.build_model`` would build, before adapters; and its tokenizer.

    Args:
        mixture: None where the data is not there yet: a random model then has no tokenizer.

    Raises:
        RequestError: what is started from is not there, lies at an address and is not fetched yet, or has
            an architecture whose shapes are not known.
    """
    if start.random is not None:
        template = random_outline(start.random, start.family, VOCABULARY).template
        tokenizer = random_tokenizer(template, mixture) if mixture is not None else None
        words = tokenizer.get_vocab_size() if tokenizer is not None else VOCABULARY
        return random_outline(start.random, start.family, words), tokenizer
    if start.parts is not None:
        outline, folder = parts_outline(start.parts)
    else:
        outline, folder = folder_outline(str(start.model), start.model_base)
    return outline, folder_tokenizer(folder)


def random_tokenizer(template: str, mixture: Mixture) -> Tokenizer:
    """The tokenizer of a model that starts from random weights: trained on the mixture's own texts."""
    texts = [t.system for t in TEMPLATES.values()] + ["USER: ASSISTANT:"] * 8
    texts += [t for number in range(min(len(mixture), TEXTS)) for t in mixture.texts(number)]
    spelled = TEMPLATES[template].tokens
    # In this order a model's ids of padding, begin and end are 0, 1 and 2 (see the families' random).
    special = SPECIAL if set(spelled) <= set(SPECIAL) else ("<|endoftext|>", *spelled)
    return train_tokenizer([f" {t}" for t in texts], special=special)
