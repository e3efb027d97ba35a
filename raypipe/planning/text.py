"""Plans as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

WIDTH, NAME = 80, 14
Line = tuple[str, str]


def page(title: str, lines: Iterable[Line]) -> str:
    """One name and what is said of it a line, wrapped below itself; "" as a name goes on under the last."""
    out = [title]
    for name, said in lines:
        head = f"  {name:<{NAME}} "
        out += textwrap.wrap(
            said,
            WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [head.rstrip()]
    return "\n".join(out)


def size(count: float) -> str:
    """Bytes as GiB, of less than one as MiB or KiB."""
    for unit, scale in (("KiB", 1 << 10), ("MiB", 1 << 20)):
        if count < 1024 * scale:
            return f"{count / scale:.1f} {unit}"
    found = count / (1 << 30)
    return f"{found:.1f} GiB" if found < 100 else f"{found:,.0f} GiB"


def many(count: float) -> str:
    """12,345; 6.74 billion."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.4g} {word}"
    return f"{count:,.0f}"


def some(count: float, thing: str, things: str = "") -> str:
    """1 node, 2 nodes."""
    return f"{count:,g} {thing if count == 1 else things or thing + 's'}"


def hours(count: float) -> str:
    if count < 1:
        return f"{max(1, round(60 * count))} min"
    return f"{count:.1f} h" if count < 100 else f"{count:,.0f} h"


def usd(amount: float) -> str:
    return f"{amount:,.2f} USD" if amount < 100 else f"{amount:,.0f} USD"
