"""``raypipe evaluate`` with an engine that takes its time: the body of the process that a test kills.

python -m tests.support.slow_evaluate MARKS SECONDS [arguments of raypipe evaluate]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from raypipe import cli
from raypipe.evaluate import on_ray
from raypipe.evaluate.plan import Unit
from raypipe.evaluate.work import Done, Work
from tests.support.evaluated import Hooked

real = on_ray.on_ray


def slowly(units: Sequence[Unit], work: Work) -> Iterator[Done]:
    marks, seconds = sys.argv[1:3]
    return real(units, Hooked(**vars(work), folder=marks, slow_s=float(seconds)))


if __name__ == "__main__":
    on_ray.on_ray = slowly
    sys.exit(cli.main(["evaluate", *sys.argv[3:]]))
