"""A loss or gradient that is not finite: which samples, and which parts of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from raypipe.errors import RaypipeError
from raypipe.model.splice import Batch
from raypipe.train import engine as ds

SHOWN = 5
Named = tuple[tuple[str, ...], torch.Tensor]  # ids of samples, and the loss of each


def names_of(batch: Batch) -> tuple[str, ...]:
    """The ids of a batch's samples, in the order in which the head returns their losses."""
    return tuple(name for row in batch.samples for name in row)


def bad_losses(each: Iterable[Named]) -> list[str]:
    """The samples whose loss is not finite."""
    return [
        name
        for names, losses in each
        for name, good in zip(names, torch.isfinite(losses).tolist(), strict=True)
        if not good
    ]


def bad_gradients(
    engine: Any, batches: Sequence[Batch], scale: float, part_of: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """Computes a step's gradients again, without a step, and looks at each part of the model.

    A collective. All ZeRO stages leave a step with such a gradient out, so the weights are those it was
    computed with, or one step on.

    Args:
        scale: what the summed losses are multiplied by.

    Returns:
        the parts with a gradient that is not finite, and the samples of the micro-batches it came from.
    """
    parts: set[str] = set()
    samples: list[str] = []
    seen: set[str] = set()

    def watch(name: str) -> Callable[[torch.Tensor], None]:
        def look(gradient: torch.Tensor) -> None:
            if not bool(torch.isfinite(gradient).all()):
                seen.add(part_of(name))

        return look

    hooks = [p.register_hook(watch(name)) for p, name in engine.trained_names.items()]
    try:
        for batch in batches:
            seen.clear()
            ds.micro_batch(engine, last=False)
            loss, _ = engine(batch)
            engine.backward(loss * scale)
            engine.step()  # none: the step has not ended
            if seen:
                parts |= seen
                samples += names_of(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(parts), samples


def stop(step: int, what: str, parts: Iterable[str], samples: Sequence[str]) -> RaypipeError:
    """The error that ends the run, the same on all ranks.

    Args:
        step: as the metrics count, from 1 on.
        what: "loss" or "gradient".
    """
    named = ", ".join(samples[:SHOWN]) + (f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else "")
    where = f" in {', '.join(parts)}" if parts else ""
    who = f"; samples: {named}" if samples else "; computed again, every sample's was finite"
    return RaypipeError(
        f"the {what} is not finite at step {step}{where}{who}",
        "lower the rates, or look at these samples; the checkpoint before is kept",
    )
