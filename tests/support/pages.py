"""The pages of the documentation and the code blocks on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLOUD = "needs a cloud account"
RUN = "docs/cluster.md"  # tests/cluster/test_page.py runs what does not need a cloud account
MARK = re.compile(r"<!-- (.*) -->")


@dataclass(frozen=True)
class Block:
    """A code block; ``mark`` is what the comment on the line before it says."""

    page: str
    line: int
    language: str
    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block."""
        joined = self.text.replace("\\\n", " ")
        words = [shlex.split(line, comments=True) for line in joined.splitlines()]
        return [w for w in words if w]


def blocks() -> Iterator[Block]:
    """All blocks of all pages."""
    for page in PAGES:
        text = page.read_text()
        for found in FENCE.finditer(text):
            before = text[: found.start()].rstrip("\n").rpartition("\n")[2]
            mark = MARK.fullmatch(before.strip())
            line = text.count("\n", 0, found.start()) + 1
            name = page.relative_to(ROOT).as_posix()
            yield Block(name, line, found[1], found[2], mark[1] if mark else "")
