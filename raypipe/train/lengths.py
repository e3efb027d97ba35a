"""How many tokens a mixture's samples take, counted on all of them or on an even choice of each part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from raypipe.model.outline import Outline
from raypipe.settings import StageSettings
from raypipe.text.chat import TEMPLATES, ChatEncoder, VisualTokens
from raypipe.train.fitting import Fitting
from raypipe.train.mixture import Mixture

COUNTED = 1000  # samples of a part


@dataclass(frozen=True)
class Lengths:
    """Of the samples of a mixture as a stage shows them.

    Attributes:
        tokens: mean of a sample, by part of the mixture.
        error: half the width of a 95 % interval of the mean over all parts; 0 where all were counted.
        labels: the mean number of positions that are learned.
        longest: of those counted.
        cut, dropped: the share of samples whose text is shortened, and that are left out.
        counted: samples that were encoded.
    """

    tokens: tuple[float, ...]
    error: float
    labels: float
    longest: int
    cut: float
    dropped: float
    counted: int

    @property
    def exact(self) -> bool:
        return self.error == 0


def lengths_of(
    mixture: Mixture, numbers: np.ndarray, outline: Outline, tokenizer: Tokenizer, settings: StageSettings
) -> Lengths:
    """Encodes samples as training does.

    Args:
        numbers: of the samples that train, ascending.

    Raises:
        RequestError: the tokenizer does not know the template.
    """
    name = outline.template if settings.template == "auto" else settings.template
    visual = {kind: VisualTokens(*where) for kind, where in outline.visual.items()}
    fitting = Fitting(ChatEncoder(tokenizer, TEMPLATES[name], visual, settings.protocol), settings)
    ends = np.cumsum([len(part) for part in mixture.parts])
    parts = np.split(numbers, np.searchsorted(numbers, ends[:-1]))
    means, variances, labels, faults, longest = [], [], [], [], 0
    for members in parts:
        chosen = _evenly(members)
        found = [fitting.fitted(mixture.sample(int(number))) for number in chosen]
        sizes = np.array([len(encoded) for encoded, _, _ in found], np.float64)
        means.append(float(sizes.mean()) if len(sizes) else 0.0)
        spread = float(sizes.var(ddof=1)) / len(sizes) if len(sizes) > 1 else 0.0
        variances.append(spread * (1 - len(chosen) / len(members)) if len(members) else 0.0)
        labels += [encoded.learned for encoded, _, _ in found]
        faults += [(cut, bool(fault)) for _, cut, fault in found]
        longest = max(longest, int(sizes.max(initial=0)))
    shares = np.array([len(members) for members in parts]) / max(1, len(numbers))
    return Lengths(
        tokens=tuple(means),
        error=1.96 * math.sqrt(float((shares**2 * variances).sum())),
        labels=_mean(labels),
        longest=longest,
        cut=_mean([cut for cut, _ in faults]),
        dropped=_mean([dropped for _, dropped in faults]),
        counted=len(faults),
    )


def _evenly(members: np.ndarray) -> np.ndarray:
    """At most ``COUNTED`` of them, evenly spread."""
    if len(members) <= COUNTED:
        return members
    return members[np.linspace(0, len(members) - 1, COUNTED).astype(np.int64)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
