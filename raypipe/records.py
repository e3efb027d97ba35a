"""The things that travel through raypipe, and their Arrow schemas.

A stage is a plain function from record to record; Ray, the command line and the files are adapters
around them. Ids are made from content, never from position, so that a record keeps its name
whatever the order, the number of workers or the number of crashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import pyarrow as pa


class MediumKind(StrEnum):
    IMAGE = "image"
    VIDEO = "video"


class Reason(StrEnum):
    """Why a record or a medium was put in quarantine."""

    BAD_JSON = "bad_json"  # a line or record that is not JSON at all
    BAD_RECORD = "bad_record"  # an annotation that cannot be read as a conversation
    BAD_TAGS = "bad_tags"  # media tags and media files do not agree
    NOTHING_TO_LEARN = "nothing_to_learn"  # no answer to train on
    MEDIA_MISSING = "media_missing"
    MEDIA_OUTSIDE_ROOT = "media_outside_root"
    MEDIA_EMPTY = "media_empty"
    MEDIA_CHANGED = "media_changed"  # another file than the one that was planned, or changed while being read
    MEDIA_UNREADABLE = "media_unreadable"  # no decoder takes it
    MEDIA_NO_VIDEO = "media_no_video"  # a container without a video stream, or with an empty one
    MEDIA_TRUNCATED = "media_truncated"  # fewer frames than the container promised
    FRAMES_DAMAGED = "frames_damaged"  # a sampled frame may be wrong
    IMAGE_TOO_LARGE = "image_too_large"
    VIDEO_TOO_LARGE = "video_too_large"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_MEMORY = "decoder_memory"  # it wanted more memory than it is allowed
    DECODER_TIMEOUT = "decoder_timeout"
    GENERATION_FAILED = "generation_failed"  # the model could not be asked


class Outcome(StrEnum):
    """How the work on one question ended. Each question ends in exactly one of these."""

    OK = "ok"
    EMPTY = "empty"  # the model answered with nothing; graded as it stands
    MEDIUM_BAD = "medium_bad"  # missing or unreadable medium: not asked
    FAILED = "failed"  # generation failed
    JUDGE_UNREADABLE = "judge_unreadable"  # the judge answered, but not with a verdict
    JUDGE_FAILED = "judge_failed"  # no verdict: the judge did not answer, or had nothing to judge by


@dataclass(frozen=True)
class MediumRef:
    """A medium as an annotation names it: kind and path below the media root, '/'-separated."""

    kind: MediumKind
    path: str


@dataclass(frozen=True)
class Turn:
    role: str  # "human" | "gpt", as in the LLaVA format
    text: str


@dataclass(frozen=True)
class Clip:
    """One annotation record, read but not yet resolved against the media."""

    id: str
    dataset: str
    media: tuple[MediumRef, ...]
    turns: tuple[Turn, ...]
    source: str  # "file#position", for messages only


@dataclass(frozen=True)
class Medium:
    """A decoded and sampled medium, as stored: one row of a media shard.

    ``frames`` are encoded images in presentation order (one for an image), ``pts_s`` the
    presentation time of each in seconds, ``frame_index`` its position in the stream.
    ``width`` and ``height`` are those of the source in pixels. ``evidence`` says, frame by frame,
    what the decoder said of it ("clean" is the only one stored as good).
    """

    key: str
    kind: MediumKind
    path: str
    sha256: str
    frames: tuple[bytes, ...]
    pts_s: tuple[float, ...]
    frame_index: tuple[int, ...]
    evidence: tuple[str, ...]
    width: int
    height: int
    phash: str


@dataclass(frozen=True)
class Sample:
    """One training conversation: turns and references to media rows (by key, in tag order)."""

    id: str
    dataset: str
    turns: tuple[Turn, ...]
    media: tuple[str, ...]
    kinds: tuple[MediumKind, ...]


@dataclass(frozen=True)
class Rejection:
    """A record or medium that did not make it, why, and where it came from."""

    id: str
    what: str  # "medium" | "sample" | "question"
    reason: Reason
    detail: str
    path: str = ""

    def row(self) -> dict[str, str]:
        return {k: str(v) for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Question:
    """One benchmark question.

    ``prompt`` is what the model is asked (without the media tag), ``question`` the bare question
    that a judge or a scorer needs, ``reference`` the right answer(s) as the benchmark states them,
    ``category`` what the benchmark groups its metric by. ``row_id`` is the benchmark's own id. ``tags``
    are further facts to break a metric down by, each ``facet=value``, as in ``grade=7``.
    """

    id: str
    benchmark: str
    row_id: str
    medium: MediumRef | None
    prompt: str
    question: str
    reference: str
    category: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """A model's answer to a question; ``key`` names question, model, protocol and sampling.

    ``context`` says what the medium shows, for a judge that cannot see it.
    """

    key: str
    benchmark: str
    question_id: str
    row_id: str
    medium: str
    category: str
    prompt: str
    question: str
    reference: str
    text: str
    outcome: Outcome
    detail: str
    new_tokens: int
    tags: tuple[str, ...] = ()
    context: str = ""

    @classmethod
    def about(
        cls,
        question: Question,
        key: str,
        text: str,
        outcome: Outcome = Outcome.OK,
        *,
        detail: str = "",
        new_tokens: int = 0,
    ) -> Prediction:
        """An answer to a question, with what the question says of itself."""
        return cls(
            key=key,
            benchmark=question.benchmark,
            question_id=question.id,
            row_id=question.row_id,
            medium=question.medium.path if question.medium else "",
            category=question.category,
            prompt=question.prompt,
            question=question.question,
            reference=question.reference,
            text=text,
            outcome=outcome,
            detail=detail,
            new_tokens=new_tokens,
            tags=question.tags,
            context=str(question.extra.get("context", "")),
        )


@dataclass(frozen=True)
class Verdict:
    """A judge's reading of an answer; ``key`` names its content, rubric, judge and endpoint model.

    ``judge_model`` and ``fingerprint`` are the judge's snapshot as the endpoint reports it. ``baseline`` is
    the mark of the reference where two answers are compared, ``choice`` the option that was found in an
    answer. ``flags`` say what in the answer was aimed at the judge (see ``grading.injection``).
    """

    key: str
    benchmark: str
    question_id: str
    judge: str  # the name the judge goes by in reports
    judge_model: str  # the model as the endpoint reports it
    rubric: str  # name and hash of the rubric
    outcome: Outcome
    correct: bool | None
    score: float | None
    reply: str
    prompt_tokens: int
    reply_tokens: int
    baseline: float | None = None
    choice: str | None = None
    fingerprint: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """A metric of one benchmark with its 95 % interval (same scale) and both denominators."""

    benchmark: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    missing: int


FRAMES = pa.list_(pa.large_binary())

MEDIA_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("frames", FRAMES),
        ("pts_s", pa.list_(pa.float64())),
        ("frame_index", pa.list_(pa.int32())),
        ("evidence", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("phash", pa.string()),
    ]
)

TURN = pa.struct([("role", pa.string()), ("text", pa.string())])

SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("turns", pa.list_(TURN)),
        ("media", pa.list_(pa.string())),
        ("kinds", pa.list_(pa.string())),
    ]
)

# Sorted by key. ``offset`` and ``length`` are the bytes of the record batch in the shard, so that a row is
# one ranged read; ``what`` is "medium" or "sample".
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("what", pa.string()),
        ("shard", pa.string()),
        ("batch", pa.int32()),
        ("row", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)

_NO_TEXTS = ("new_tokens", "tags", "context")
PREDICTION_SCHEMA_1 = pa.schema(  # until 0.4.0
    [(name, pa.string()) for name in Prediction.__dataclass_fields__ if name not in _NO_TEXTS]
    + [("new_tokens", pa.int32()), ("tags", pa.list_(pa.string()))]
)
PREDICTION_SCHEMA = PREDICTION_SCHEMA_1.append(pa.field("context", pa.string()))

THUMBS_SCHEMA = pa.schema([("medium", pa.string()), ("frames", FRAMES), ("pts_s", pa.list_(pa.float64()))])

VERDICT_SCHEMA_1 = pa.schema(  # until 0.4.0
    [
        ("key", pa.string()),
        ("benchmark", pa.string()),
        ("question_id", pa.string()),
        ("judge", pa.string()),
        ("judge_model", pa.string()),
        ("rubric", pa.string()),
        ("outcome", pa.string()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),
        ("reply", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("reply_tokens", pa.int32()),
    ]
)

VERDICT_SCHEMA = pa.schema(
    [
        *VERDICT_SCHEMA_1,
        ("baseline", pa.float64()),
        ("choice", pa.string()),
        ("fingerprint", pa.string()),
        ("flags", pa.list_(pa.string())),
    ]
)


# What older versions wrote and is still read; the fields that were not there have their defaults.
OLDER_SCHEMAS = ((PREDICTION_SCHEMA, PREDICTION_SCHEMA_1), (VERDICT_SCHEMA, VERDICT_SCHEMA_1))


def fingerprint(*parts: Any, digest_size: int = 12) -> str:
    """A short content name: blake2b over the parts as canonical JSON, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=digest_size).hexdigest()


def to_table(records: Iterable[Any], schema: pa.Schema) -> pa.Table:
    """Dataclass records as an Arrow table of the given schema."""
    return pa.Table.from_pylist([asdict(r) for r in records], schema=schema)


def predictions_of(rows: Sequence[dict[str, Any]]) -> list[Prediction]:
    return [Prediction(**{**r, "outcome": Outcome(r["outcome"]), "tags": tuple(r["tags"])}) for r in rows]


def verdicts_of(rows: Sequence[dict[str, Any]]) -> list[Verdict]:
    made = [
        {**row, "outcome": Outcome(row["outcome"]), "flags": tuple(row.get("flags") or ())} for row in rows
    ]
    return [Verdict(**row) for row in made]


def media_of(rows: Sequence[dict[str, Any]]) -> list[Medium]:
    lists = ("frames", "pts_s", "frame_index", "evidence")
    return [Medium(**{**r, "kind": MediumKind(r["kind"]), **{k: tuple(r[k]) for k in lists}}) for r in rows]


def rejections_of(rows: Sequence[dict[str, str]]) -> list[Rejection]:
    return [
        Rejection(id=r["id"], what=r["what"], reason=Reason(r["reason"]), detail=r["detail"], path=r["path"])
        for r in rows
    ]


def samples_of(rows: Sequence[dict[str, Any]]) -> list[Sample]:
    return [
        Sample(
            id=row["id"],
            dataset=row["dataset"],
            turns=tuple(Turn(**t) for t in row["turns"]),
            media=tuple(row["media"]),
            kinds=tuple(MediumKind(k) for k in row["kinds"]),
        )
        for row in rows
    ]
