"""How many tokens a language model takes, prompt and answer together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STRETCHED = ("linear", "dynamic")  # kinds of rotary positions that go on beyond max_position_embeddings


class TooLong(ValueError):
    """A prompt that leaves no room for an answer."""


@dataclass(frozen=True)
class Context:
    """The context of a language model.

    Attributes:
        most: tokens; None where its config names no bound.
    """

    most: int | None

    @classmethod
    def of(cls, config: Any) -> Context:
        """The context that a text config of transformers says; scaled rotary positions count as scaled."""
        most = getattr(config, "max_position_embeddings", None)
        rope = getattr(config, "rope_parameters", None) or {}
        factor = float(rope.get("factor") or 1.0)
        if most and rope.get("rope_type") in STRETCHED:
            most = int(most * factor)
        elif most and rope.get("rope_type") == "yarn":
            most = max(most, int(factor * (rope.get("original_max_position_embeddings") or most)))
        return cls(most)

    def room(self, prompt: int, wanted: int) -> int:
        """How many tokens an answer may have.

        Args:
            prompt: tokens of the prompt, visual ones included.

        Raises:
            TooLong: not one.
        """
        if self.most is None:
            return wanted
        if prompt >= self.most:
            raise TooLong(
                f"the prompt has {prompt} tokens, visual ones included, and an answer needs one more; "
                f"the model's context has {self.most}"
            )
        return min(wanted, self.most - prompt)
