"""TGIF-QA (zero shot): the FrameQA questions on animated GIFs.

The published 70.0 is not what users find with later judges: 43 to 60 (Video-LLaVA issues 37, 55 and 191).

Rules and differences from the reference: ``raypipe.video_qa``.
"""

from __future__ import annotations

from raypipe.video_qa import video_qa

BENCHMARK = video_qa(
    name="tgif_qa",
    title="TGIF-QA",
    folder="TGIF_Zero_Shot_QA",
    videos="mp4",
    size=13_691,
    published={"accuracy": 70.0, "score": 4.0},
)
