"""The page: what a model, a judge or a data set says cannot act, and the file stays small."""

from __future__ import annotations

import random
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raypipe.records import Outcome
from raypipe.report.html import CONTROL
from raypipe.report.run import report_runs
from tests.report import runs

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "<svg/onload=alert(1)>",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "<details open ontoggle=alert(1)>",
    "<math><mi xlink:href=javascript:alert(1)>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<!--><script>alert(1)</script>",
    "--><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<base href=//evil.example/>",
    "<form action=//evil.example><button>go</button></form>",
    "<object data=//evil.example/x.swf>",
    "<input autofocus onfocus=alert(1)>",
    '" onmouseover="alert(1)',
    "' style='background:url(//evil.example)'",
    "{{ 7*7 }}{% for x in [] %}{{ self }}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\x00<scr\x00ipt>alert(1)</script>\x1b[31m\u202e\u2028",
]
KNOWN = (
    "html head meta title style body main header nav section article footer h1 h2 h3 p div span strong b a "
    "br table caption thead tbody tr th td dl dt dd details summary pre code input label figure img "
    "figcaption svg g line circle path rect polyline text"
)
TAGS = set(KNOWN.split())


class Page(HTMLParser):
    """Collects the elements and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def assert_inert(page: Page) -> None:
    assert {tag for tag, _ in page.elements} <= TAGS
    for tag, attributes in page.elements:
        active = [name for name in attributes if name.startswith("on") or name == "style"]
        assert not active, (tag, attributes)
        for name in ("src", "href", "action", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, value)


def hostile_run(root: Path, text: str) -> str:
    """A run in which every string that others write is the text."""
    made = []
    for question in [*runs.video_questions(2), *runs.pope_questions(1)]:
        names = ("medium", "category", "prompt", "question", "reference", "row_id")
        answer = runs.prediction(question, text, detail=text)
        made.append(type(answer)(**{**vars(answer), **dict.fromkeys(names, text)}))
    made[0] = type(made[0])(**{**vars(made[0]), "outcome": Outcome.FAILED})
    judged = [p for p in made if p.benchmark == "msvd_qa"]
    verdicts = [runs.verdict(p, True, judge=text, judge_model=text, reply=text) for p in judged]
    settings = {"model": text, "model_base": text, "judge": runs.JudgeSettings(name=text, base_url=text)}
    return runs.evaluate_run(root, made, verdicts, {text: [runs.frame("red", 0), text.encode()]}, **settings)


@pytest.mark.parametrize("position", range(len(HOSTILE)))
def test_strings_of_a_run_stay_text(tmp_path: Path, position: int) -> None:
    text = HOSTILE[position]
    report = report_runs(
        [(text, hostile_run(tmp_path / "run", text)), ("plain", hostile_run(tmp_path / "run2", text))],
        trainings=[(text, runs.train_run(tmp_path / "train", 6, name=text))],
        prepares=[(text, runs.prepare_run(tmp_path / "prepare", detail=text))],
        baseline="plain",
        out=str(tmp_path / "out"),
        title=text,
        notes=[text],
        checks=[{"name": text, "passed": False, "detail": text}],
    )
    page = Page(Path(report["paths"]["html"]).read_text(encoding="utf-8"))
    assert_inert(page)
    assert CONTROL.sub("�", text) in "".join(page.words)  # it is shown, as text


def test_the_page_forbids_scripts_and_remote_content(tmp_path: Path) -> None:
    report = report_runs(runs.trained_and_untrained(tmp_path, 2, 2), out=str(tmp_path / "out"))
    page = Page(Path(report["paths"]["html"]).read_text(encoding="utf-8"))
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert_inert(page)


def test_frames_are_shown_once_with_their_times(tmp_path: Path) -> None:
    report = report_runs(runs.trained_and_untrained(tmp_path, 2, 0), out=str(tmp_path / "out"))
    text = Path(report["paths"]["html"]).read_text(encoding="utf-8")
    samples = len(report["benchmarks"][0]["samples"])
    assert samples == 4
    assert text.count("<img ") == 8 * samples  # both evaluations saw the same frames: one strip
    assert "2.62 s" in text or "2.63 s" in text


def test_evaluations_that_saw_other_frames_have_their_own_strip(tmp_path: Path) -> None:
    made = [runs.prediction(q, "red") for q in runs.video_questions(1)]
    medium = made[0].medium
    moving = runs.evaluate_run(tmp_path / "a", made, thumbs={medium: runs.drawn(medium)})
    still = {medium: runs.drawn(medium)[:1] * 8}
    control = runs.evaluate_run(tmp_path / "b", made, thumbs=still, control="repeat_frame")
    report = report_runs([("clip", moving), ("one frame", control)], out=str(tmp_path / "out"))
    assert Path(report["paths"]["html"]).read_text(encoding="utf-8").count('class="strip"') == 2 * 2


def test_a_report_of_ten_thousand_predictions_stays_under_five_megabytes(tmp_path: Path) -> None:
    noise = random.Random(5)
    long = "a long answer " * 400
    made = [runs.prediction(q, long) for q in runs.video_questions(5000)]
    shown = {m: [b"\xff\xd8\xff" + noise.randbytes(9000) for _ in range(8)] for m in {p.medium for p in made}}
    verdicts = [runs.verdict(p, bool(i % 3), reply=long) for i, p in enumerate(made)]
    path = runs.evaluate_run(tmp_path / "run", made, verdicts, shown)
    report = report_runs([("a", path), ("b", path)], baseline="a", out=str(tmp_path / "out"))
    assert len(report["benchmarks"][0]["samples"]) == 24
    assert Path(report["paths"]["html"]).stat().st_size < 5_000_000
    assert Path(report["paths"]["json"]).stat().st_size < 1_000_000


def test_no_training_no_data_no_checks_still_renders(tmp_path: Path) -> None:
    made = [runs.prediction(q, q.reference) for q in runs.pope_questions(2)]
    path = runs.evaluate_run(tmp_path / "r", made, thumbs={})
    report = report_runs([("m", path)], out=str(tmp_path / "out"))
    page = Page(Path(report["paths"]["html"]).read_text(encoding="utf-8"))
    ids = {a.get("id") for _, a in page.elements}
    assert {"summary", "scores", "samples", "reproduce"} <= ids
    assert not {"checks", "training", "data"} & ids
    assert report["headline"] == []


def test_an_evaluation_that_was_not_asked_a_question_has_a_place_beside_the_others(tmp_path: Path) -> None:
    made = [runs.prediction(q, "red") for q in runs.video_questions(2)]
    whole = runs.evaluate_run(tmp_path / "a", made)
    part = runs.evaluate_run(tmp_path / "b", made[:1])
    report = report_runs([("whole", whole), ("part", part)], out=str(tmp_path / "out"))
    assert Path(report["paths"]["html"]).read_text(encoding="utf-8").count("not_asked") == len(made) - 1
