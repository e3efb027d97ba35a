"""What README and docs tell a reader to type is what raypipe takes.

Each command of a bash block is parsed as the command line would parse it: the verb, its yaml, every setting.
A block that needs a cluster may also call ray; the job it submits is checked the same way. One that needs a
cloud account, or is run on a cluster's machines, may call anything beside. JSON blocks are parsed, Python
blocks executed, tables of settings compared with the classes, paths looked up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe import benchmark as benchmarks
from raypipe.cli import VERBS, Request, main, parse
from raypipe.planning.plan import OPTIONS as PLAN_OPTIONS
from raypipe.planning.plan import kind_of
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    JudgeSettings,
    Settings,
    StageSettings,
    TuneSettings,
    load,
)
from tests.support import ROOT
from tests.support.pages import CLOUD, PAGES, RUN, Block, blocks

TABLES: dict[str, type[Settings]] = {
    "prepare": DatasetSettings,
    "train": StageSettings,
    "tune": TuneSettings,
    "evaluate": EvaluateSettings,
    "judge": JudgeSettings,
}
OPTIONS = {
    "demo": {"out"},
    "score": {"eval_root", "answers", "verdicts", "split"},
    "export": {"eval_root", "answers", "run", "out", "format", "split"},
    "unpack": {"eval_root", "split", *benchmarks.load("seed_bench").media_sources},
    "ask": {"model", "model_base", "max_new_tokens"},
    "doctor": {"data_root", "datasets", "eval_root", "out", "judge"},
    "logs": {"start"},
    "merge": {"adapter", "model_base", "out"},
}
RAY = {
    "up",
    "down",
    "dashboard",
    "start",
    "stop",
    "get-auth-token",
    "job",
    "attach",
    "rsync-up",
    "rsync-down",
}
ANYTHING = (CLOUD, "run on the machines", "needs Kubernetes")
ALL = list(blocks())


def of(language: str) -> list[Block]:
    return [b for b in ALL if b.language == language]


def load_yaml(kind: type[Settings], request: Request, required: bool) -> None:
    file = request.yaml(required=required)
    load(kind, ROOT / file if file else None, request.settings)


def check_verb(verb: str, request: Request) -> None:
    """Raises what the command itself would raise before it starts anything."""
    if verb in ("prepare", "train"):
        load_yaml(StageSettings if verb == "train" else DatasetSettings, request, required=True)
    elif verb in ("plan", "chaos"):
        names = PLAN_OPTIONS if verb == "plan" else ("seed", "faults", "sample", "out")
        given = {name: request.take(name) for name in names}
        assert given.get("cluster") is None or (ROOT / str(given["cluster"])).is_file()
        load_yaml(kind_of(ROOT / str(next(w for w in request.words))), request, required=True)
    elif verb == "tune":
        load_yaml(TuneSettings, request, required=True)
    elif verb == "evaluate":
        load_yaml(EvaluateSettings, request, required=False)
    elif verb == "judge":
        assert len(request.words) == 1
        request.take("drift")
        load(JudgeSettings, None, request.settings)
    elif verb == "report":
        request.take("out")
        labels = {s.partition("=")[0] for s in request.settings if not s.startswith("baseline=")}
        assert request.words or labels
        assert request.take("baseline") in (None, *labels)
    elif verb in OPTIONS:
        assert {s.partition("=")[0] for s in request.settings} <= OPTIONS[verb]
        if verb in ("score", "export", "unpack"):
            benchmarks.load(request.words[0], request.take("split"))
    else:
        assert not request.settings
        assert len(request.words) == {"verify": 1, "compare": 2, "benchmarks": 0, "status": 1}[verb]


def check_raypipe(words: list[str]) -> None:
    verb, rest = words[0], words[1:]
    assert verb in VERBS, f"no verb {verb}"
    if verb == "submit":
        request = parse(rest, verb)
        for name in ("address", "python", "retries"):
            request.take(name)
        verb, *request.words = request.words
        check_verb(verb, request)
    elif verb == "cluster":
        assert rest[0] == "check"
        assert all((ROOT / name).is_file() for name in rest[1:])
    else:
        check_verb(verb, parse(rest, verb))


def check_job(words: list[str]) -> None:
    """``python jobs/NAME.py ...``: the verb the script names, with the yaml beside it unless one is named."""
    script = ROOT / words[0]
    assert script.is_file(), f"no script {words[0]}"
    named = re.search(r'job\("(\w+)"|main\(\["(\w+)"', script.read_text())
    assert named is not None
    verb, rest = named[1] or named[2], words[1:]
    if named[1] and not any(w.endswith(".yaml") for w in rest):
        rest = [words[0].replace(".py", ".yaml"), *rest]
    check_raypipe([verb, *rest])


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets), f"no target {words}"


def check_ray(words: list[str]) -> None:
    assert words[0] in RAY
    if words[0] in ("up", "down", "dashboard", "rsync-up", "rsync-down", "attach"):
        assert (ROOT / words[1]).is_file()
    if words[0] == "job":
        entry = words[words.index("--") + 1 :]
        assert entry[0] == "python"
        check_job(entry[1:])


def check_private(words: list[str]) -> None:
    """What a command in brackets writes is closed to others."""
    assert words[0] == "077;"
    assert words[1] in ("aws", "kubectl") or words[1:] == ["ray", "get-auth-token", "--generate)"]


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "raypipe": check_raypipe,
    "python": check_job,
    "make": check_make,
    "export": lambda words: None,
    "source": lambda words: None,
    "(umask": check_private,
}


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_bash_blocks_say_what_raypipe_takes(block: Block) -> None:
    for words in block.commands():
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # VARIABLE=value command
            words = words[1:]
        check = check_ray if words[0] == "ray" and (block.mark or block.page == RUN) else CHECKS.get(words[0])
        if check is None and block.mark in ANYTHING:
            continue
        assert check is not None, f"{block}: nobody checks '{words[0]}'"
        check(words[1:])


def test_the_check_itself_refuses_what_is_wrong() -> None:
    for wrong in (
        "raypipe trian jobs/finetune.yaml",
        "raypipe train jobs/finetune.yaml workers.nm=1",
        "raypipe train jobs/no_such.yaml",
        "raypipe score pop --eval-root x --answers y",
        "make tset",
        "ray up cluster.yaml",
    ):
        with pytest.raises(Exception, match=r"."):
            test_bash_blocks_say_what_raypipe_takes(Block("x", 1, "bash", wrong))


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_blocks_are_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_blocks_are_datasets(block: Block, tmp_path: Path) -> None:
    (tmp_path / "block.yaml").write_text(block.text)
    assert load(DatasetSettings, tmp_path / "block.yaml", [])


def test_python_blocks_run() -> None:
    for block in of("python"):
        exec(compile(block.text, str(block), "exec"), {"__name__": "docs"})  # noqa: S102


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {b.language for b in ALL} <= {"bash", "json", "yaml", "python", ""}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"usage: raypipe {verb}" in capsys.readouterr().out


def keys_of(kind: Any, prefix: str = "") -> set[str]:
    """Every setting of a class, groups and their members by dotted name."""
    out: set[str] = set()
    for name, info in kind.model_fields.items():
        out.add(prefix + name)
        choices = [info.annotation, *getattr(info.annotation, "__args__", ())]
        groups = [c for c in choices if isinstance(c, type) and issubclass(c, Settings)]
        for group in groups:
            out |= keys_of(group, f"{prefix}{name}.")
    return out


@pytest.mark.parametrize("verb", TABLES)
def test_settings_tables_are_right_and_whole(verb: str) -> None:
    text = (ROOT / "docs" / f"{verb}.md").read_text()
    table = text.partition("## Settings")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {key for cell in first for key in re.findall(r"`([\w.]+)`", cell)}
    assert named <= keys_of(TABLES[verb]), "a setting that does not exist"
    shown = {key.partition(".")[0] for key in named}
    assert set(TABLES[verb].model_fields) <= shown, "a setting is not shown"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:jobs|datasets|docs|raypipe)/[\w/]+\.(?:py|yaml|md))`", text)
    missing = [n for n in named if not (ROOT / n).is_file()]
    links = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    missing += [t for t in links if not (page.parent / t).is_file()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_name_no_path_of_one_machine(page: Path) -> None:
    assert not re.search(r"/(?:work|root|home/(?!ray\b)\w+)/", page.read_text())


def test_every_picture_is_on_a_page() -> None:
    shown = {
        name
        for page in PAGES
        for name in re.findall(r"\]\(images/([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == {file.name for file in (ROOT / "docs/images").iterdir()}


def test_the_guide_covers_every_benchmark() -> None:
    text = (ROOT / "docs" / "from_video_llava.md").read_text()
    assert [n for n in benchmarks.names() if f"`--benchmarks {n}`" not in text] == []
