"""The command line: parse, dispatch, exit code. Heavy libraries are imported by the verb that needs them.

    raypipe VERB [yaml] [key=value ...]

``--key value`` and ``key=value`` mean the same.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from raypipe import __version__
from raypipe.ending import Command, ending_of
from raypipe.errors import RequestError, nearest
from raypipe.redaction import hide_of_environment, redact
from raypipe.stopping import listen
from raypipe.terminal import tell

FLAGS = ("json", "debug", "help", "version")
FLAGS_OF = {"logs": ("all", "follow"), "submit": ("detach", "no_wait")}  # of one verb only
NUMBERS = {"drift": "100"}  # options that may stand alone, and what they are then


class Verb(NamedTuple):
    """A verb of the command line: where its function is, its arguments, what it does."""

    module: str
    arguments: str
    text: str


VERBS = {
    "demo": Verb(
        "runs", "[--out DIR]", "the whole platform on clips it draws itself; no network, key or GPU"
    ),
    "prepare": Verb("runs", "DATASET.yaml [key=value ...]", "media and annotations -> verified shards"),
    "plan": Verb(
        "machine",
        "CONFIG.yaml|RUN [key=value ...] [cluster=FILE] [gpu=NAME] [gpu_gib=N] [mfu=X] [prices=FILE]",
        "what a run would read, do, take and cost, and whether it can be scheduled; starts nothing",
    ),
    "train": Verb("runs", "STAGE.yaml [key=value ...]", "one training stage; the same command continues it"),
    "tune": Verb(
        "runs",
        "SEARCH.yaml [key=value ...]",
        "a search over a stage's settings; the same command continues it",
    ),
    "evaluate": Verb(
        "runs",
        "[yaml] --model M [--model-base B] --benchmarks all|a,b --eval-root DIR --out RUN",
        "predictions, verdicts and scores; resumes by itself",
    ),
    "judge": Verb(
        "runs",
        "RUN [base_url=... model=... key_file=...] [--drift [N]]",
        "judge the open answers of an evaluation (again); --drift: does the judge still say the same?",
    ),
    "report": Verb(
        "results",
        "RUN... [--out DIR] [--baseline LABEL]",
        "one HTML file and a table of any runs; LABEL=RUN names one",
    ),
    "compare": Verb("results", "RUN_A RUN_B", "paired comparison of two evaluations"),
    "score": Verb(
        "results",
        "BENCHMARK --eval-root DIR --answers FILE | --verdicts FILE... [--split S]",
        "score a file in the reference's format",
    ),
    "export": Verb(
        "results",
        "BENCHMARK --eval-root DIR --answers FILE|--run RUN --out FILE [--format upload|answers] [--split S]",
        "what an evaluation server takes, or a run's answers in the reference's format",
    ),
    "unpack": Verb(
        "results",
        "BENCHMARK --eval-root DIR [--split S] [SOURCE=DIR ...]",
        "media that lie in annotations (mmbench) or inside videos (seed_bench), as files",
    ),
    "ask": Verb(
        "models", '--model M [--model-base B] FILE "question"', "one answer about one image or video"
    ),
    "verify": Verb("results", "RUN", "prove a run: every input in exactly one place, every hash right"),
    "status": Verb(
        "cluster",
        "RUN...",
        "what became of a run, from its folder alone: how far, how it ended, how to go on",
    ),
    "logs": Verb(
        "cluster",
        "RUN [--start N | --all] [--follow]",
        "what the starts of a run have said, the newest unless told otherwise",
    ),
    "doctor": Verb(
        "machine",
        "[--data-root DIR [--datasets DIR]] [--eval-root DIR] [--out ADDRESS] [--judge URL|YAML]",
        "check this machine, a data root, or the benchmarks' files; each finding with its fix",
    ),
    "cluster": Verb(
        "cluster",
        "check FILE",
        "what is weak in a cluster's file, of ray up or KubeRay; each finding with its fix; contacts nothing",
    ),
    "chaos": Verb(
        "cluster",
        "CONFIG.yaml [key=value ...] --seed N [--faults worker,decoder,driver,judge] [--sample N] [--out D]",
        "the faults of real life on a sample of your own run, in a scratch folder, and the proof",
    ),
    "benchmarks": Verb("results", "", "list the benchmarks: metric, scorer, published score, splits"),
    "merge": Verb(
        "models",
        "--adapter RUN --model-base B --out DIR [--layout hf|original]",
        "merge a LoRA adapter into its base; original: in the layout of Video-LLaVA's own code",
    ),
    "submit": Verb(
        "cluster",
        "VERB [yaml] [key=value ...] [--address URL] [--detach] [--retries N] [--python PATH]",
        "a verb as a Ray job: followed, with its exit code; the same command follows or continues it",
    ),
}


@dataclass
class Request:
    """A parsed command line: the words, the settings, the flags."""

    words: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    command: Command = field(default_factory=Command)

    @property
    def json(self) -> bool:
        return "json" in self.flags

    def take(self, name: str, default: str | None = None) -> str | None:
        """Removes a setting and returns its value (of several, the last)."""
        mine = [s for s in self.settings if s.partition("=")[0] == name]
        self.settings = [s for s in self.settings if s not in mine]
        return mine[-1].partition("=")[2] if mine else default

    def need(self, name: str) -> str:
        value = self.take(name)
        if value is None:
            raise RequestError(f"--{name.replace('_', '-')} is missing", f"give {name}=...")
        return value

    def yaml(self, required: bool = True) -> str | None:
        """Takes the settings file from the words."""
        found = [w for w in self.words if w.endswith((".yaml", ".yml"))]
        extra = [w for w in self.words if w not in found]
        if extra:
            raise RequestError(
                f"'{extra[0]}' is neither a yaml file nor a key=value setting",
                "raypipe VERB FILE.yaml key=value ...; --key value means the same",
            )
        if required and not found:
            raise RequestError(
                "which settings? no yaml file is named", "see jobs/ and datasets/ for examples"
            )
        if len(found) > 1:
            raise RequestError(
                f"{' and '.join(found)}: a command takes one settings file", "one command after the other"
            )
        return found[0] if found else None

    def nothing_left(self, verb: str, valid: list[str]) -> None:
        if self.settings:
            name = self.settings[0].partition("=")[0]
            raise RequestError(
                f"{verb} has no option '{name}'", nearest(name, valid) if valid else f"raypipe {verb} --help"
            )


def parse(argv: list[str], verb: str = "") -> Request:
    """Splits words, settings and flags; ``--key value``, ``--key=value`` and ``key=value`` are one thing."""
    request, rest = Request(), list(argv)
    while rest:
        item = rest.pop(0)
        if item in ("-h", "--help"):
            request.flags.add("help")
        elif item.startswith("--"):
            name, sep, value = item[2:].partition("=")
            name = name.replace("-", "_")
            flags = flags_of(verb, request.words)
            if name in flags and not sep:
                request.flags.add(name)
            elif name in NUMBERS and not sep and not (rest and rest[0].isdecimal()):
                request.settings.append(f"{name}={NUMBERS[name]}")
            elif sep:
                request.settings.append(f"{name}={value}")
            elif rest:
                request.settings.append(f"{name}={rest.pop(0)}")
            else:
                close = f", or did you mean one of --{', --'.join(flags)}?"
                raise RequestError(f"{item} needs a value", f"{item} VALUE{close}")
        elif _is_setting(item):
            request.settings.append(item)
        else:
            request.words.append(item)
    return request


def flags_of(verb: str, words: list[str]) -> list[str]:
    """The options without a value; behind the verb that submit is told, that verb's too."""
    submitted = words[0] if verb == "submit" and words else ""
    return [*FLAGS, *FLAGS_OF.get(verb, ()), *FLAGS_OF.get(submitted, ())]


def main(argv: list[str] | None = None, command: Command | None = None) -> int:
    """Runs one command; returns its exit code.

    Args:
        command: how the command was typed, where that is not ``raypipe`` with ``argv``.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = command or _typed(argv)
    listen(command)
    try:
        return _dispatch(argv, command)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as fault:
        ending = ending_of(fault, command)
        if "--debug" in argv:
            traceback.print_exc()
        blank = "\n" if isinstance(fault, KeyboardInterrupt) else ""  # behind the ^C of a terminal
        hide_of_environment()  # a job's stderr is kept by Ray
        print(blank + redact(ending.render()), file=sys.stderr)
        return ending.code


def job(verb: str, script: str) -> int:
    """The body of a script in jobs/: its verb, with the yaml beside the script unless one is named."""
    given = sys.argv[1:]
    argv = list(given)
    if not any(a.endswith((".yaml", ".yml")) and not a.startswith("-") and "=" not in a for a in argv):
        argv = [str(Path(script).with_suffix(".yaml")), *argv]
    return main([verb, *argv], Command((verb, *argv), f"jobs/{Path(script).name}", tuple(given)))


def _typed(argv: list[str]) -> Command:
    """The command as it was typed: by its name, or as a script of jobs/ that is called like its verb."""
    script = Path(sys.argv[0])
    if argv and script.parent.name == "jobs" and script.name == f"{argv[0]}.py":
        return Command(tuple(argv), f"jobs/{script.name}", tuple(argv[1:]))
    return Command(tuple(argv))


def show(value: dict[str, Any], text: str, as_json: bool) -> None:
    """A verb's result on stdout: one JSON object, or text."""
    tell(text)
    print(json.dumps(value, sort_keys=True, default=str) if as_json else text)


def usage() -> str:
    width = max(len(v) for v in VERBS)
    lines = [
        f"raypipe {__version__}: from folders of videos and images to a trusted video-language model",
        "",
    ]
    lines += ["usage: raypipe VERB [yaml] [key=value ...] [--json] [--debug]", ""]
    lines += [f"  {verb:<{width}}  {known.text}" for verb, known in VERBS.items()]
    lines += [
        "",
        "raypipe VERB --help shows a verb's arguments. --key value and key=value mean the same.",
        EXIT_CODES,
    ]
    return "\n".join(lines)


EXIT_CODES = (
    "exit codes: 0 done, 2 wrong request, 3 over the error budget or under the coverage floor,\n"
    "            4 stopped (resumable), 5 a service or the machine refused, 6 damage found, 1 anything else"
)


def _dispatch(argv: list[str], command: Command) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("--version", "version"):
        print(__version__)
        return 0
    verb = argv[0]
    if verb not in VERBS:
        raise RequestError(f"no verb is called '{verb}'", nearest(verb, VERBS, shown=20))
    request = parse(argv[1:], verb)
    request.command = command
    if "help" in request.flags:
        known = VERBS[verb]
        print(f"usage: raypipe {verb} {known.arguments}\n\n{known.text}\n\n{EXIT_CODES}")
        return 0
    submitted_by = os.environ.get("RAYPIPE_SUBMITTED_BY", __version__)
    if submitted_by != __version__:
        print(f"note: submitted by raypipe {submitted_by}, carried out by {__version__}", file=sys.stderr)
    run = getattr(importlib.import_module(f"raypipe.commands.{VERBS[verb].module}"), verb)
    return int(run(request) or 0)


def _is_setting(item: str) -> bool:
    name, sep, _ = item.partition("=")
    return bool(sep) and all(part.isidentifier() for part in name.split("."))


if __name__ == "__main__":
    sys.exit(main())
