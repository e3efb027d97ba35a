"""The loss on labelled positions against the loss over all logits, forward and backward.

A sample of Video-LLaVA's size: 2,200 positions, 64 labels, 32,000 words.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

from bench.figure import Figure, figure
from bench.pairs import paired

LENGTH, LABELS, WIDTH, WORDS = 2200, 64, 1024, 32000
TARGET, APART = 0.1, 1e-6


def loss_head(pairs: int) -> Iterator[Figure]:
    """CPU seconds of both ways, one thread; the gradients of both must agree first."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(LENGTH, WIDTH, requires_grad=True)
    head = torch.nn.Linear(WIDTH, WORDS, bias=False)
    labels = torch.full((LENGTH,), -100)
    labels[-LABELS:] = torch.randint(0, WORDS, (LABELS,))

    def grads(loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden.grad = head.weight.grad = None
        loss.backward()
        return loss.detach(), hidden.grad, head.weight.grad

    def labelled() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        chosen = labels != -100
        return grads(functional.cross_entropy(head(hidden[chosen]).float(), labels[chosen], reduction="sum"))

    def everything() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return grads(functional.cross_entropy(head(hidden).float(), labels, reduction="sum"))

    both = list(zip(labelled(), everything(), strict=True))
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in both)
    if apart > APART:
        raise AssertionError(f"the two ways differ by {apart:.1e} of the largest value")
    ratio = paired(labelled, everything, pairs)
    what = f"loss and gradients at {LABELS} labelled of {LENGTH} positions, width {WIDTH}, {WORDS} words"
    yield figure(
        "loss_head", what, "the same over all logits", ratio, TARGET, largest_relative_difference=apart
    )
