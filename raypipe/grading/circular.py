"""Circular evaluation: a multiple-choice question counts if it is answered rightly in every rotation.

Source: MMBench. A row's id is a number, and the rotations of a question have the same one modulo a million;
the question as it stands has no million. A question of which a rotation has no answer is unknown, also if
another rotation is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raypipe.grading.metrics import GradedTable, Metric, all_right, by_facet, proportion, unread

ROTATION = 1_000_000


def circular_metrics(table: GradedTable, facets: Sequence[str]) -> list[Metric]:
    """``circular``, ``vanilla`` (as they stand), ``accuracy`` of all rows, by facet, and ``failed``."""
    index = np.array([int(row) for row in table.row_id], dtype=np.int64)
    circular, asked = all_right(table, index % ROTATION)
    return [
        proportion("circular", circular, asked),
        proportion("vanilla", table.value, index < ROTATION),
        proportion("accuracy", table.value, table.everything),
        *(
            proportion(f"circular/{facet}={value}", circular, asked & member)
            for facet in facets
            for value, member in table.facet(facet).items()
        ),
        *by_facet(table, *facets),
        unread(table),
    ]
