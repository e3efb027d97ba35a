"""The frames that SEED-Bench's video questions are about: from the middle of a video or of its segment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from raypipe.errors import RequestError, nearest
from raypipe.eval_root import Row, field, medium_path
from raypipe.formats.seed_annotation import read_annotation
from raypipe.media.middle_frame import Clip, Written, write_middle_frames
from raypipe.store.files import Store

VIDEO_SOURCES = {"10": "ssv2", "11": "epic_kitchens", "12": "breakfast"}  # by question type
SOURCE_NAMES = tuple(VIDEO_SOURCES.values())
SUFFIXES = (".webm", ".mp4", ".MP4", ".avi", ".mkv")  # some ids are names without one


def write_video_frames(eval_root: Path, sources: Mapping[str, Path], annotation: str, frames: str) -> Written:
    """Takes the middle frame of every video question out of its video, to where the questions name it.

    Frames that are there are left alone, so that it can be run again when a video has come.

    Args:
        sources: the folder of each of ``SOURCE_NAMES`` that is there; questions on another are left out.
        annotation: the annotation, below the eval root.
        frames: the folder to write to, below the eval root.

    Returns:
        What was written, and for each refused frame the reason: ``media_missing``, ``frames_damaged``, ...

    Raises:
        RequestError: an unknown or missing source, or a damaged annotation.
        ServiceError: the disk refused.
    """
    for source, folder in sources.items():
        if source not in SOURCE_NAMES:
            raise RequestError(
                f"'{source}' is no source of SEED-Bench's videos", nearest(source, list(SOURCE_NAMES))
            )
        if not folder.is_dir():
            raise RequestError(f"no such folder: {folder}", f"give the folder of the {source} videos")
    path = eval_root / annotation
    clips: dict[str, Clip] = {}
    for number, row in enumerate(read_annotation(path)[0], 1):
        where = f"question {number}"
        of_type, row_id = (field(row, name, path, where) for name in ("question_type_id", "question_id"))
        source = VIDEO_SOURCES.get(of_type, "")
        if source in sources:
            name = medium_path(frames, f"{of_type}_{row_id}.png", path, where)
            clips[name] = _clip(row, source, sources[source], path, where)
    return write_middle_frames(clips, Store(str(eval_root)))


def _clip(row: Row, source: str, folder: Path, path: Path, where: str) -> Clip:
    video = medium_path("", field(row, "data_id", path, where), path, where).removeprefix("/")
    names = [name + suffix for name in (video, PurePosixPath(video).name) for suffix in ("", *SUFFIXES)]
    found = next((name for name in names if (folder / name).is_file()), names[0])
    if source == "ssv2":
        return Clip(folder, found, ("whole", 0.0, 0.0))
    segment = row.get("segment")
    try:
        begin, end = (float(number) for number in segment or ())
    except (TypeError, ValueError, OverflowError):
        raise RequestError(f"{path}, {where}: the segment is not two numbers: {segment!r:.60}") from None
    return Clip(folder, found, ("seconds" if source == "epic_kitchens" else "frames", begin, end))
