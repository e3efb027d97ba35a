"""Draws the demo's data set: clips and images of one coloured shape, with questions about them.

The folder follows the Video-LLaVA guide's layout: ``DATA_ROOT`` (media folders and the JSON of
the three training stages) and ``eval`` (zero-shot video QA, POPE and GQA files).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raypipe.demo.scenes import ASKED, Scene, encode_clip, encode_image, make_scenes, render

FORMAT = 1  # raised whenever the drawn content changes, so that an older folder is redrawn
COLOUR_QUESTION = "What colour is the shape?"
SCENES_QUESTION = "How many scenes does the video have?"
SIZE_QUESTION = "Is the shape big or small?"
CAPTION_QUESTIONS = {"image": "Describe the image.", "video": "Describe the video."}
SHORT = "\nAnswer the question using a single word or phrase."
NUMBERS = ("one", "two", "three", "four", "five", "six")

Progress = Callable[[int, int], None]
Record = dict[str, Any]


@dataclass(frozen=True)
class DrawSettings:
    """What is drawn.

    Attributes:
        seed: everything drawn follows from it.
        train_clips: clips of stage 2; stage 1 draws a quarter as many, the LoRA stage half as many.
        train_images: images of stage 2; stage 1 draws a quarter as many.
        heldout_clips: clips of the zero-shot QA set, three questions each.
        heldout_images: images of POPE (six questions each) and as many of GQA (one each).
    """

    seed: int = 7
    train_clips: int = 500
    train_images: int = 400
    heldout_clips: int = 120
    heldout_images: int = 48

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "seed" and value < 4:
                raise ValueError(f"{name} must be at least 4, not {value}")


def write_file(path: Path, data: bytes | str) -> None:
    """Writes under a temporary name and renames, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(partial, path)


def write_json(path: Path, value: Any, lines: bool = False) -> None:
    """Writes one JSON document or, with ``lines``, one line for each item of a list."""
    text = "\n".join(json.dumps(item) for item in value) if lines else json.dumps(value, indent=1)
    write_file(path, text + "\n")


class Draughtsman:
    """Draws scenes into folders and tells how far it is."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done = 0
        self._total = total
        self._progress = progress

    def clips(self, folder: Path, scenes: Sequence[Scene]) -> None:
        """One ``NAME.mp4`` a scene."""
        for scene in scenes:
            self._write(folder / f"{scene.name}.mp4", encode_clip(render(scene)))

    def images(self, folder: Path, scenes: Sequence[Scene]) -> None:
        """One ``NAME.png`` a scene."""
        for scene in scenes:
            self._write(folder / f"{scene.name}.png", encode_image(render(scene, still_image=True)[0]))

    def _write(self, path: Path, data: bytes) -> None:
        write_file(path, data)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def caption(scene: Scene, medium: str) -> str:
    """What stage 1 teaches to say of a scene (``medium`` is ``image`` or ``video``)."""
    shown = f"a {scene.colour} {scene.shape}"
    return shown if medium == "image" else f"{shown} in {scene.scenes} scene{'s' * (scene.scenes != 'one')}"


def record(scene: Scene, medium: str, folder: str, kind: str, question: str, answer: str) -> Record:
    """One training record with a single question on one clip or image."""
    suffix = "mp4" if medium == "video" else "png"
    turns = [{"from": "human", "value": f"<{medium}>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": f"{scene.name}_{kind}", medium: f"{folder}/{scene.name}.{suffix}", "conversations": turns}


def clip_question(scene: Scene, kind: str) -> tuple[str, str]:
    """A clip's question and answer of one kind: ``colour``, ``scenes``, ``size`` or ``caption``."""
    return {
        "colour": (COLOUR_QUESTION, scene.colour),
        "scenes": (SCENES_QUESTION, scene.scenes),
        "size": (SIZE_QUESTION, scene.size),
        "caption": (CAPTION_QUESTIONS["video"], caption(scene, "video")),
    }[kind]


def clip_record(scene: Scene, folder: str, kind: str) -> Record:
    """A clip's training record of one kind."""
    return record(scene, "video", folder, kind, *clip_question(scene, kind))


def presence_question(colour: str) -> str:
    """POPE's question for one colour, without the suffix that asks for a short answer."""
    return f"Is there a {colour} shape in the image?"


def other_asked(colour: str) -> str:
    """The other of the two ``ASKED`` colours."""
    return ASKED[1 - ASKED.index(colour)]


def image_records(scene: Scene, folder: str) -> list[Record]:
    """An image's records of stage 2: its colour and, where that is one of ``ASKED``, a yes and a no."""
    asked = [("colour", COLOUR_QUESTION, scene.colour)]
    if scene.colour in ASKED:
        asked += [
            ("present", presence_question(scene.colour), "yes"),
            ("absent", presence_question(other_asked(scene.colour)), "no"),
        ]
    return [
        record(scene, "image", folder, kind, question + SHORT, answer) for kind, question, answer in asked
    ]


def draw_training(root: Path, settings: DrawSettings, hand: Draughtsman) -> None:
    """Media and JSON of pretraining, finetuning and LoRA finetuning, under ``root/DATA_ROOT``."""
    data = root / "DATA_ROOT"
    _draw_captions(data, settings, hand)

    tune_images = make_scenes("tune_image", settings.train_images, settings.seed)
    hand.images(data / "llava_image_tune", tune_images)
    records = [entry for scene in tune_images for entry in image_records(scene, "llava_image_tune")]
    write_json(data / "ft_json/llava_image_tune_.json", records)

    tune_clips = make_scenes("tune_clip", settings.train_clips, settings.seed)
    hand.clips(data / "videochatgpt_tune", tune_clips)
    asked = _clip_records(tune_clips, ("colour", "scenes"))
    write_json(data / "ft_json/videochatgpt_tune_.json", asked)
    write_json(data / "ft_json/nlp_tune.json", _text_records())

    size_clips = make_scenes("size_clip", settings.train_clips // 2, settings.seed)
    hand.clips(data / "videochatgpt_tune", size_clips)
    replay = records[: len(size_clips)]  # kinds of stage 2, so that the adapter does not unlearn them
    asked = _clip_records(size_clips, ("size", "colour", "scenes"))
    write_json(data / "lora_json/size_tune_.json", replay + asked)


def _draw_captions(data: Path, settings: DrawSettings, hand: Draughtsman) -> None:
    """Images and clips of pretraining, each with a caption."""
    images = make_scenes("caption_image", settings.train_images // 4, settings.seed)
    hand.images(data / "llava_image", images)
    question = CAPTION_QUESTIONS["image"]
    records = [record(s, "image", "llava_image", "caption", question, caption(s, "image")) for s in images]
    write_json(data / "pt_json/llava_image_.json", records)
    clips = make_scenes("caption_clip", settings.train_clips // 4, settings.seed)
    hand.clips(data / "valley", clips)
    write_json(data / "pt_json/valley_.json", [clip_record(s, "valley", "caption") for s in clips])


def _clip_records(scenes: Sequence[Scene], kinds: Sequence[str]) -> list[Record]:
    return [clip_record(scene, "videochatgpt_tune", kind) for scene in scenes for kind in kinds]


def _text_records() -> list[Record]:
    """Conversations without a medium."""
    return [
        {
            "id": f"text_{number}",
            "conversations": [
                {"from": "human", "value": f"Which number comes after {NUMBERS[number]}?"},
                {"from": "gpt", "value": NUMBERS[number + 1]},
            ],
        }
        for number in range(len(NUMBERS) - 1)
    ]


def draw_video_eval(root: Path, settings: DrawSettings, hand: Draughtsman) -> None:
    """The zero-shot QA set: each held-out clip with a colour, a scenes and a size question."""
    folder = root / "eval/GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA"
    scenes = make_scenes("heldout_clip", settings.heldout_clips, settings.seed)
    hand.clips(folder / "videos", scenes)
    questions, answers = [], []
    for scene in scenes:
        for kind in ("colour", "scenes", "size"):
            question, answer = clip_question(scene, kind)
            key = f"{scene.name}_{kind}"
            questions.append({"question_id": key, "video_name": scene.name, "question": question})
            answers.append({"question_id": key, "answer": answer, "type": kind})
    write_json(folder / "test_q.json", questions)
    write_json(folder / "test_a.json", answers)


def draw_pope(root: Path, settings: DrawSettings, hand: Draughtsman) -> None:
    """POPE: for each category and image, one question to be answered yes and one no.

    With two colours to ask for, the three categories ask the same questions.
    """
    folder = root / "eval/pope"
    scenes = make_scenes("pope_image", settings.heldout_images, settings.seed, ASKED)
    hand.images(folder / "val2014", scenes)
    questions: list[Record] = []
    for category, first in (("adversarial", 1), ("random", 10_000_001), ("popular", 20_000_001)):
        labels: list[Record] = []
        for scene in scenes:
            for colour, label in ((scene.colour, "yes"), (other_asked(scene.colour), "no")):
                text, image = presence_question(colour), f"{scene.name}.png"
                questions.append(
                    {
                        "question_id": first + len(labels),
                        "image": image,
                        "text": text + SHORT,
                        "category": category,
                    }
                )
                labels.append({"question_id": len(labels) + 1, "image": image, "text": text, "label": label})
        write_json(folder / f"coco/coco_pope_{category}.json", labels, lines=True)
    write_json(folder / "llava_pope_test.jsonl", questions, lines=True)


def draw_gqa(root: Path, settings: DrawSettings, hand: Draughtsman) -> None:
    """GQA: one colour question an image, with the semantics of the balanced test-dev questions."""
    folder = root / "eval/gqa"
    scenes = make_scenes("gqa_image", settings.heldout_images, settings.seed)
    hand.images(folder / "data/images", scenes)
    questions, truth = [], {}
    for index, scene in enumerate(scenes):
        key = f"{index:08d}"
        questions.append(
            {
                "question_id": key,
                "image": f"{scene.name}.png",
                "text": COLOUR_QUESTION + SHORT,
                "category": "default",
            }
        )
        truth[key] = {
            "question": COLOUR_QUESTION,
            "answer": scene.colour,
            "imageId": scene.name,
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "attr", "detailed": "categoryAttr"},
            "semantic": [
                {"operation": "select", "argument": "shape (0)", "dependencies": []},
                {"operation": "query", "argument": "color", "dependencies": [0]},
            ],
            "fullAnswer": f"The shape is {scene.colour}.",
            "groups": {"global": "color", "local": f"13-shape_{scene.shape}"},
        }
    write_json(folder / "llava_gqa_testdev_balanced.jsonl", questions, lines=True)
    write_json(folder / "data/questions1.2/testdev_balanced_questions.json", truth)


def draw(root: Path, settings: DrawSettings = DrawSettings(), progress: Progress | None = None) -> Path:
    """Draws everything under ``root`` and returns it.

    ``root/drawn.json`` is written last; where it matches ``settings``, nothing is redrawn.
    ``progress`` is called with the number of media files drawn and their total.
    """
    clips = {
        "pretrain": settings.train_clips // 4,
        "finetune": settings.train_clips,
        "lora": settings.train_clips // 2,
        "heldout": settings.heldout_clips,
    }
    images = {
        "pretrain": settings.train_images // 4,
        "finetune": settings.train_images,
        "pope": settings.heldout_images,
        "gqa": settings.heldout_images,
    }
    stamp = {"format": FORMAT, "settings": asdict(settings), "clips": clips, "images": images}
    stamp_path = root / "drawn.json"
    try:
        if json.loads(stamp_path.read_text(encoding="utf-8")) == stamp:
            return root
    except (FileNotFoundError, json.JSONDecodeError):
        pass
    stamp_path.unlink(missing_ok=True)
    hand = Draughtsman(sum((*clips.values(), *images.values())), progress)
    for step in (draw_training, draw_video_eval, draw_pope, draw_gqa):
        step(root, settings, hand)
    write_json(stamp_path, stamp)
    return root
