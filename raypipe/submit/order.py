"""What is to be run: a verb and its arguments as the job takes them, checked where that costs nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError, nearest
from raypipe.redaction import HIDDEN, redact
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    JudgeSettings,
    Settings,
    StageSettings,
    TuneSettings,
    load,
)
from raypipe.submit.upload import Upload

STAGES = ("pretrain", "finetune", "finetune_lora")  # jobs/NAME.yaml of train
HERE_ONLY = ("submit", "cluster")  # about this machine and its files
WITH_SETTINGS: dict[str, type[Settings]] = {
    "prepare": DatasetSettings,
    "train": StageSettings,
    "tune": TuneSettings,
    "evaluate": EvaluateSettings,
}
OF_RUNS = ("verify", "judge", "report", "compare", "status", "logs")  # their words are run folders
MAKING = ("demo", "report", "export", "merge")  # beside the verbs with settings: they write to out
_SECRETS = ("key", "api_key", "apikey", "token", "auth_token", "secret", "password")
_PATHS = (
    "data_root",
    "eval_root",
    "answers",
    "verdicts",
    "run",
    "adapter",
    "model",
    "model_base",
    "key_file",
)


@dataclass(frozen=True)
class Order:
    """A verb for the cluster. ``arguments`` are those of the job; ``out`` is where it writes, there."""

    verb: str
    arguments: tuple[str, ...]
    out: str | None
    paths: tuple[
        tuple[str, str], ...
    ]  # what the settings name: (setting, path), relative ones are of the upload

    @property
    def command(self) -> str:
        """What to type to do the same again."""
        return shlex.join(["raypipe", "submit", self.verb, *self.arguments])

    def entrypoint(self, root: Path, python: str) -> str:
        """The job's command: the script of jobs/ where the folder has raypipe's own, else the module."""
        script = Path("jobs") / f"{self.verb}.py"
        ours = (root / script).is_file() and (root / "raypipe" / "cli.py").is_file()
        if ours and (self.verb not in WITH_SETTINGS or any(_is_yaml(a) for a in self.arguments)):
            return shlex.join([python, str(script), *self.arguments])
        return shlex.join([python, "-m", "raypipe.cli", self.verb, *self.arguments])

    def name(self) -> str:
        """What the submissions of this run folder have in common; where none is made, of these arguments."""
        place = (self.out or "\0".join(self.arguments)).rstrip("/")
        label = re.sub(r"[^A-Za-z0-9_]+", "_", (self.out or "").rstrip("/").rpartition("/")[2])[:24]
        digest = hashlib.sha256(f"{self.verb}\0{place}".encode()).hexdigest()[:10]
        return "-".join(["raypipe", self.verb, *([label] if label.strip("_") else []), digest])


def order(
    verb: str,
    words: list[str],
    settings: list[str],
    verbs: list[str],
    root: Path,
    flags: Sequence[str] = (),
) -> Order:
    """Checks a request as far as this machine can, and says it in the job's words.

    Args:
        verbs: the verbs of the command line.
        root: the folder that is uploaded, where the job starts.
        flags: options of the verb that take no value, as they are typed.

    Raises:
        RequestError: what the verb itself would refuse, and paths that are this machine's only.
    """
    if verb in STAGES:
        named = [w for w in words if _is_yaml(w)]
        verb, words = "train", words if named else [f"jobs/{verb}.yaml", *words]
    allowed = [v for v in verbs if v not in HERE_ONLY]
    if verb not in allowed:
        if verb in HERE_ONLY:
            raise RequestError(f"{verb} is about this machine; it is no job", f"raypipe {verb} ...")
        raise RequestError(f"no verb is called '{verb}'", nearest(verb, [*allowed, *STAGES], shown=24))
    _refuse_secrets([*settings, *words])
    words = [_inside(w, root) if _is_yaml(w) else _from_home(w) for w in words]
    settings = [_from_home(s) for s in settings]
    out, paths = _checked(verb, words, settings)
    if out is not None:
        _refuse_relative("out", out)
    return Order(verb, (*words, *settings, *flags), out, tuple(paths))


def refuse_missing(wanted: Order, upload: Upload) -> None:
    """Relative paths are of the uploaded folder, so what is not uploaded will not be there.

    Raises:
        RequestError: the first of them.
    """
    for name, path in wanted.paths:
        if _is_relative(path) and not upload.holds(path):
            here = "stays here" if (upload.root / path).exists() else "is not here"
            raise RequestError(
                f"{name}={path} is looked up in the uploaded folder, and {path} {here}",
                "name a path of the cluster: /shared/..., ~/... (home there) or s3://bucket/prefix",
            )


def _checked(verb: str, words: list[str], settings: list[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """Where it writes and what paths it names, after the verb's own check of its settings."""
    if kind := WITH_SETTINGS.get(verb):
        extra = [w for w in words if not _is_yaml(w)]
        if extra:
            raise RequestError(
                f"'{extra[0]}' is neither a yaml file nor a key=value setting",
                f"raypipe submit {verb} FILE.yaml key=value ...; --key value means the same",
            )
        if len(words) > 1:
            raise RequestError(
                f"{' and '.join(words)}: a command takes one settings file", "submit one after the other"
            )
        if not words and verb != "evaluate":
            remedy = f"raypipe submit {verb} FILE.yaml; see jobs/ and datasets/ for examples"
            raise RequestError("which settings? no yaml file is named", remedy)
        built = load(kind, words[0] if words else None, settings)
        return built.out, list(_paths_of(built))  # type: ignore[attr-defined]
    if verb == "judge":
        given = [s.removeprefix("judge.") for s in settings]
        mine = [s for s in given if s.partition("=")[0] not in ("coverage_floor", "drift")]
        judge = load(JudgeSettings, None, mine)
    if verb in OF_RUNS:
        labelled = [
            s for s in settings if verb == "report" and s.partition("=")[0] not in ("out", "baseline")
        ]
        runs = [w.rpartition("=")[2] for w in (*words, *labelled)]
        if not runs:
            raise RequestError(f"{verb} of which run?", f"raypipe submit {verb} RUN, a path on the cluster")
        for run in runs:
            _refuse_relative("RUN", run)
    if verb == "judge":  # its model is a name, no path
        return None, list(_paths_of(judge))
    given_paths = dict(s.split("=", 1) for s in settings)
    out = given_paths.get("out")
    if verb in MAKING and out is None:
        raise RequestError(f"{verb} as a job needs a place for its result", "out=PATH, a path on the cluster")
    return (out if verb in MAKING else None), [(n, p) for n, p in given_paths.items() if n in _PATHS]


def _paths_of(settings: Settings) -> Iterator[tuple[str, str]]:
    """The paths that settings name, with the settings' names."""
    if isinstance(settings, DatasetSettings):
        found: list[tuple[str, Any]] = [("data_root", settings.data_root)]
        found += [("reuse", path) for path in settings.reuse]
    elif isinstance(settings, EvaluateSettings):
        found = [("eval_root", settings.eval_root), ("model_base", settings.model_base)]
        found += [("model", settings.model)] if settings.engine == "local" else []
        found += [("prepared", path) for path in settings.prepared]
        if settings.judge is not None:
            yield from _paths_of(settings.judge)
    elif isinstance(settings, JudgeSettings):
        found = [("judge.key_file", settings.key_file), ("judge.cache", settings.cache)]
    elif isinstance(settings, TuneSettings):
        from raypipe.settings.tune import stage_of

        yield from _paths_of(stage_of(settings))
        found = [("stage", settings.stage)] if isinstance(settings.stage, str) else []
    elif isinstance(settings, StageSettings):
        start = settings.start
        found = [(f"start.{n}", getattr(start, n)) for n in ("model", "model_base", "projector")]
        if start.parts is not None:
            found += [(f"start.parts.{n}", getattr(start.parts, n)) for n in type(start.parts).model_fields]
        for part in settings.mixture:
            found.append(("mixture.data", part.data))
            if _is_yaml(part.data):
                yield from _paths_of(load(DatasetSettings, part.data))
        found.append(("validation.eval_root", settings.validation.eval_root))
    else:
        found = []
    yield from ((name, path) for name, path in found if path is not None)


def _from_home(text: str) -> str:
    """Paths below this machine's home folder from ``~``: the shell has put the folder's name in its place."""
    home = os.path.expanduser("~").rstrip("/")
    if home in ("", "~"):  # a user of a container: every path is below /, and without HOME there is no home
        return text
    return re.sub(rf"(?<![\w/.~-]){re.escape(home)}(?=/|$)", "~", text)


def _inside(path: str, root: Path) -> str:
    """A settings file as the job finds it: relative to the uploaded folder."""
    file = root / Path(path).expanduser()
    file = file.parent.resolve() / file.name
    if not file.is_relative_to(root):
        raise RequestError(
            f"{path} lies outside {root}, the folder that is uploaded",
            "copy it into the folder, or start from the folder that holds it",
        )
    return str(file.relative_to(root))


def _refuse_relative(name: str, path: str) -> None:
    if _is_relative(path):
        raise RequestError(
            f"{name} '{path}' is relative: on the cluster that is the job's own folder, which ends with it",
            f"name a path of the cluster: /shared/{path}, ~/{path} (home there) or s3://bucket/{path}",
        )


def _refuse_secrets(given: list[str]) -> None:
    for item in given:
        if f"://{HIDDEN}@" in (shown := redact(item)):
            raise RequestError(
                f"{shown} holds credentials: process lists and the job list show what a command line holds",
                "name the address alone; keys belong in a role or a file on the cluster, as of aws configure",
            )
        name = item.partition("=")[0].rpartition(".")[2]
        if name in _SECRETS:
            raise RequestError(
                f"'{name}' is no setting: process lists and the job list show what a command line holds",
                "keep a key in a file on the cluster and name it: key_file=PATH (the cluster's own token: "
                "RAY_AUTH_TOKEN_PATH)",
            )


def _is_relative(path: str) -> bool:
    return "://" not in path and not path.startswith(("/", "~"))


def _is_yaml(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))
