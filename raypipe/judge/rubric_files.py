"""The rubrics of a run: raypipe's, and those that a user's own files replace."""

from __future__ import annotations

from pathlib import Path

from raypipe.errors import RequestError
from raypipe.grading.rubrics import RUBRICS, Rubric, rubric_named
from raypipe.settings import JudgeSettings, local

MAX_BYTES = 64 << 10


def rubrics_of(settings: JudgeSettings) -> dict[str, Rubric]:
    """All rubrics by name. A file replaces what the judge is told to do; how it replies stays as it is.

    Raises:
        RequestError: a file for no rubric, or one that is missing, empty, too long or no text.
    """
    rubrics = dict(RUBRICS)
    for given, file in settings.rubric_files.items():
        # On a command line a name has no slash: video_chatgpt_detail is video_chatgpt/detail.
        name = next((n for n in RUBRICS if n.replace("/", "_") == given), given)
        rubrics[name] = rubric_named(name).with_task(_text(Path(local(file))))
    return rubrics


def _text(path: Path) -> str:
    remedy = "write what the judge shall do; how it replies is added by raypipe"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode()
    except OSError as fault:
        raise RequestError(f"cannot read the rubric {path}: {fault.strerror}", remedy) from None
    except UnicodeDecodeError:
        raise RequestError(f"the rubric {path} is not UTF-8 text", remedy) from None
    if not text.strip() or len(data) > MAX_BYTES:
        raise RequestError(f"the rubric {path} is empty or longer than {MAX_BYTES >> 10} KiB", remedy)
    return text
