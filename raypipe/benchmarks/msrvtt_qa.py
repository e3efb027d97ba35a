"""MSRVTT-QA (zero shot): 72,821 questions on 2,990 web clips.

Rules and differences from the reference: ``raypipe.video_qa``.
"""

from __future__ import annotations

from raypipe.video_qa import video_qa

BENCHMARK = video_qa(
    name="msrvtt_qa",
    title="MSRVTT-QA",
    folder="MSRVTT_Zero_Shot_QA",
    videos="videos/all",
    size=72_821,
    published={"accuracy": 59.2, "score": 3.5},
)
