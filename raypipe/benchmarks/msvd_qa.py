"""MSVD-QA (zero shot): 13,157 questions on short clips of everyday scenes.

Rules and differences from the reference: ``raypipe.video_qa``.
"""

from __future__ import annotations

from raypipe.video_qa import video_qa

BENCHMARK = video_qa(
    name="msvd_qa",
    title="MSVD-QA",
    folder="MSVD_Zero_Shot_QA",
    videos="videos",
    size=13_157,
    published={"accuracy": 70.7, "score": 3.9},
)
