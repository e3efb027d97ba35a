"""Made-up files of LLaVA-Bench, MM-Vet and the generative aspects, in the reference's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raypipe.benchmarks import video_chatgpt
from raypipe.grading.aspects import graded_by_aspects
from raypipe.grading.metrics import Graded, ungraded
from raypipe.records import Outcome, Question
from tests.support.case import Case
from tests.support.eval_root_files import write_json, write_lines

# question_id, image, category, question, reference answer; the ids do not count up, on purpose
LLAVA_BENCH_ROWS = [
    (0, "001.jpg", "conv", "What is this bridge called?", "It is the Old Bridge."),
    (1, "001.jpg", "detail", "Describe this photo in detail.", "A stone bridge over a green river."),
    (5, "002.jpg", "complex", "Why is the man smiling?", "He has caught a large fish."),
    (4, "002.jpg", "conv", "What is in the bucket?", "A fish."),
]
# question_id, image, question, reference answer, capabilities
MM_VET_ROWS = [
    (0, "v1_0.png", "What is the sum?", "7 <OR> seven", ["math", "ocr"]),
    (1, "v1_0.png", "Who wrote it?", "the pupil", ["rec"]),
    (2, "v1_2.jpg", "What does the sign cost?", "3 <AND> 4", ["ocr", "math"]),
]
GENERIC_ROWS = [
    ("v_a", "What happens in the video?", "A man runs."),
    ("v_a", "Where is he?", "In a park."),
    ("v_b", "What happens in the video?", "A cat sleeps."),
]
TEMPORAL_ROWS = [("v_a", "What does he do first?", "He ties his shoes.")]
CONSISTENCY_ROWS = [
    ("v_a", "What is he wearing?", "Which clothes does he have on?", "A red shirt."),
    ("v_b", "What is on the sofa?", "Which animal is there?", "A cat."),
]


def llava_bench(root: Path, name: str = "llava_bench") -> None:
    place = root / "llava-bench-in-the-wild"
    write_lines(
        place / "questions.jsonl",
        [
            {"question_id": i, "image": image, "text": text, "category": category}
            for i, image, category, text, _ in LLAVA_BENCH_ROWS
        ],
    )
    write_lines(
        place / "context.jsonl",
        [
            {"id": "002", "image": "002.jpg", "caption": ["A man with a bucket.", "He holds a rod."]},
            {"id": "001", "image": "001.jpg", "caption": "A bridge."},
        ],
    )
    write_lines(
        place / "answers_gpt4.jsonl",
        [
            {"question_id": i, "prompt": text, "text": answer, "answer_id": f"ref{i}", "model_id": "gpt-4"}
            for i, _, _, text, answer in reversed(LLAVA_BENCH_ROWS)
        ],
    )


def mm_vet(root: Path, name: str = "mm_vet") -> None:
    write_lines(
        root / "mm-vet/llava-mm-vet.jsonl",
        [
            {"question_id": i, "image": image, "text": text, "category": "conv"}
            for i, image, text, _, _ in MM_VET_ROWS
        ],
    )
    write_json(
        root / "mm-vet/mm-vet.json",
        {
            f"v1_{i}": {"imagename": image, "question": text, "answer": answer, "capability": needed}
            for i, image, text, answer, needed in reversed(MM_VET_ROWS)
        },
    )


def generative(root: Path, name: str = "video_chatgpt") -> None:
    place = root / "Video_5_Benchmark/Benchmarking_QA"
    for file, rows in (("generic", GENERIC_ROWS), ("temporal", TEMPORAL_ROWS)):
        write_json(place / f"{file}_qa.json", [{"video_name": v, "Q": q, "A": a} for v, q, a in rows])
    write_json(
        place / "consistency_qa.json",
        [{"video_name": v, "Q1": one, "Q2": two, "A": a} for v, one, two, a in CONSISTENCY_ROWS],
    )
    videos = root / "Video_5_Benchmark/Test_Videos"
    videos.mkdir(parents=True)
    (videos / "v_a.mp4").write_bytes(b"")
    (videos / "v_b.mkv").write_bytes(b"")


def _reviewed(question: Question, right: bool) -> Graded:
    score = 10.0 if right else 1.0
    return replace(ungraded(question, Outcome.OK), value=score / 10, score=score, baseline=8.0)


def _graded(question: Question, right: bool) -> Graded:
    return replace(ungraded(question, Outcome.OK), value=float(right))


def _marked(question: Question, right: bool) -> Graded:
    aspects = [aspect for aspect, of in video_chatgpt.ASPECTS.items() if of == question.category]
    return graded_by_aspects(question, dict.fromkeys(aspects, 5 if right else 0))


CASES: dict[str, Case] = {
    "llava_bench": Case(
        llava_bench,
        "What is this bridge called?",
        "It is the Old Bridge.",
        judged=_reviewed,
        full=125.0,
        nothing=12.5,
    ),
    "mm_vet": Case(mm_vet, "What is the sum?", "7 <OR> seven", judged=_graded),
    "video_chatgpt": Case(generative, "What happens in the video?", "A man runs.", judged=_marked, full=5.0),
}
