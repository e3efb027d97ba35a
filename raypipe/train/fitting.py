"""A sample's ids and labels within a stage's ``max_tokens``: cut or left out where it is longer."""

from __future__ import annotations

from raypipe.records import Sample
from raypipe.settings import StageSettings
from raypipe.text.chat import IGNORE, ChatEncoder, ChatError, Encoded

# What stands for a sample that is dropped, and on a rank without rows: two positions, nothing learned.
NOTHING = Encoded((0, 0), (IGNORE, IGNORE))


class Fitting:
    """Encodes samples as the stage trains on them; may be used by several threads at once."""

    def __init__(self, chat: ChatEncoder, settings: StageSettings) -> None:
        self._chat, self._most, self._over = chat, settings.max_tokens, settings.over_length
        self._placeholders = {v.token_id for v in chat.visual.values()}

    def fitted(self, sample: Sample) -> tuple[Encoded, bool, str]:
        """Ids and labels, whether they were cut, and why nothing is learned of it."""
        try:
            encoded = self._chat.training(sample.turns, sample.kinds)
        except ChatError as fault:
            return NOTHING, False, f"cannot be trained on: {fault.detail}"
        most = self._most
        if len(encoded) <= most:
            return encoded, False, ""
        if self._over == "drop":
            return NOTHING, False, f"{len(encoded)} tokens, more than max_tokens={most}"
        if any(i in self._placeholders for i in encoded.ids[most:]):
            return NOTHING, False, f"its media do not fit into max_tokens={most}"
        short = encoded.cut(most)
        if not short.learned:
            return NOTHING, False, f"no answer is left within max_tokens={most}"
        return short, True, ""
