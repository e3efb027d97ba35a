"""The loss on labelled positions against the loss over all logits, forward and backward.

The goal (a sample of Video-LLaVA's size: 2,200 positions, 64 labels, 32,000 words) is a tenth of the
time with the same loss and gradients.
"""

from __future__ import annotations

import json

import torch
from torch.nn import functional

from bench.pairs import paired

LENGTH, LABELS, WIDTH, WORDS = 2200, 64, 1024, 32000
TARGET = 0.1


def main() -> None:
    """Prints one JSON object."""
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
    ratio = paired(labelled, everything)
    shown = {k: v for k, v in vars(ratio).items() if k != "ratios"}
    result = {"bench": "loss_head", **shown, "target": TARGET, "verdict": ratio.against(TARGET)}
    print(json.dumps({**result, "largest_relative_difference": apart}))


if __name__ == "__main__":
    main()
