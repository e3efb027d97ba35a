"""ActivityNet-QA (zero shot): 8,000 questions of nine types on 800 longer videos.

Unlike the other three, its files are named ``v_<video_name>``.

Rules and differences from the reference: ``raypipe.video_qa``.
"""

from __future__ import annotations

from raypipe.video_qa import video_qa

BENCHMARK = video_qa(
    name="activitynet_qa",
    title="ActivityNet-QA",
    folder="Activitynet_Zero_Shot_QA",
    videos="all_test",
    size=8_000,
    published={"accuracy": 45.3, "score": 3.3},
    prefix="v_",
)
