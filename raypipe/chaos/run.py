"""The chaos verb: one run undisturbed, the same run disturbed, and the proof that they end the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raypipe.chaos import judge as judging
from raypipe.chaos.case import Case, case_of, write
from raypipe.chaos.driver import Start
from raypipe.chaos.facts import Facts, expected_ids, facts_of
from raypipe.chaos.judge import FailingJudge
from raypipe.chaos.nemesis import Nemesis, committed
from raypipe.chaos.proof import Fired, Proof, compare
from raypipe.chaos.schedule import COMMITTED, DRIVER, JUDGE, READ, TEXTS, Kill, chosen, kills
from raypipe.errors import RaypipeError, RequestError, ServiceError
from raypipe.settings import expanded
from raypipe.store.files import Store
from raypipe.store.journal import rows

COUNTED = {COMMITTED: "commit", READ: "read"}  # in front of a number
FINISHED = (0, 3)  # exit codes of a run that is committed
Tell = Callable[[str], None]


def chaos(
    config: str | None,
    overrides: list[str],
    *,
    seed: int,
    out: str | None = None,
    faults: str | None = None,
    sample: int | None = None,
    tell: Tell = lambda _: None,
) -> dict[str, Any]:
    """Runs a configuration twice in a scratch folder, the second time with faults, and compares.

    Args:
        config: the yaml of a dataset, a stage or an evaluation; None: all is in ``overrides``.
        out: the scratch folder, new or empty; None: one that is removed when all is proved.
        faults: some of worker, decoder, driver, judge, with commas; None: all that can befall the run.
        sample: how many records, steps or questions of each benchmark.
        tell: called with a line whenever something happens.

    Returns:
        verdict ("proved", "not proved" or "disproved"), checks, faults, times and what was done twice.

    Raises:
        RequestError: settings of another kind, unknown faults, a scratch folder that holds something.
        ServiceError: this system does not show its processes, or the scratch folder cannot be written.
        RaypipeError: the undisturbed run failed.
    """
    if not (sys.platform == "linux" and Path("/proc/self/environ").exists()):
        raise ServiceError("chaos finds processes in /proc, which this system lacks", "run it on Linux")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch(out))
        judges: list[FailingJudge] = []

        def judge_url() -> str:
            judges.append(stack.enter_context(FailingJudge()))
            return judges[0].base_url

        given = [*overrides, f"out={scratch / 'run'}"]
        case = case_of(config, given, scratch, sample, judge_url)
        names = chosen(faults, case.faults, f"a run of {case.verb}")
        result = _Chaos(case, scratch, judges[0] if judges else None, seed, tell).run(names)
        if out is None and result["verdict"] == "proved":
            result["scratch"] = None
            shutil.rmtree(scratch, ignore_errors=True)
        return result


@contextlib.contextmanager
def _scratch(out: str | None) -> Iterator[Path]:
    if out is None:
        made = Path(tempfile.mkdtemp(prefix="raypipe-chaos-"))
        try:
            yield made
        except RequestError:  # nothing was begun
            shutil.rmtree(made, ignore_errors=True)
            raise
        return
    if "://" in out:
        raise RequestError(f"the scratch folder {out} is not on this machine", "give --out a local folder")
    folder = expanded(out).absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RequestError(
                f"{folder} is not empty; chaos touches nothing that is there", "give --out a new folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        remedy = "free space there, or give --out another folder"
        raise ServiceError(f"cannot write {folder}: {fault.strerror or fault}", remedy) from fault
    yield folder


class _Chaos:
    """Both runs of one case. They lie in the same place, one after the other: paths are part of settings."""

    def __init__(self, case: Case, scratch: Path, judge: FailingJudge | None, seed: int, tell: Tell) -> None:
        self._case, self._scratch, self._judge, self._seed, self._tell = case, scratch, judge, seed, tell
        self._log = scratch / "log"
        self._argv = [case.verb, write(case.settings, scratch / f"{case.verb}.yaml"), "--json"]

    def run(self, faults: list[str]) -> dict[str, Any]:
        for number, dataset in enumerate(self._case.before):
            self._tell(f"prepare {dataset.name} undisturbed")
            self._undisturbed(["prepare", write(dataset, self._scratch / f"data-{number}.yaml"), "--json"])
        self._tell("undisturbed")
        if self._judge:
            self._judge.begin([])
        began = time.monotonic()
        clean = facts_of(self._case, self._undisturbed(self._argv))
        clean_s = time.monotonic() - began
        points = list(range(self._case.every, committed(self._case) + 1, self._case.every))
        questions = len(self._judge.asked) if self._judge else 0
        faults = [f for f in faults if f != JUDGE or questions]
        schedule = kills(self._seed, faults, points, ahead=self._case.verb == "evaluate")
        failures = judging.draw(self._seed, questions) if JUDGE in faults else []
        self._case.out.rename(self._scratch / "undisturbed")
        if self._judge:
            self._judge.begin(failures)
        began = time.monotonic()
        nemesis = Nemesis(self._case, schedule, self._seed, self._tell)
        disturbed, ends = self._disturbed(nemesis, schedule)
        disturbed_s = time.monotonic() - began
        fired = self._fired(faults, schedule, nemesis, failures)
        expected = expected_ids(self._case)
        checks = compare(self._case.verb, expected, clean, disturbed, self._case.exact)
        return {
            **Proof(tuple(checks), tuple(fired)).row(),
            "verb": self._case.verb,
            "seed": self._seed,
            "scratch": str(self._scratch),
            "notes": list(self._case.notes),
            "units": len(points),
            "ends": ends,
            "twice": self._twice(nemesis),
            "undisturbed_s": round(clean_s, 1),
            "disturbed_s": round(disturbed_s, 1),
            "command": f"raypipe {self._case.verb}",
        }

    def _undisturbed(self, argv: list[str]) -> int:
        start = Start(argv, self._log)
        try:
            code = start.watch(lambda: None)
            start.clear()
        finally:
            start.close()
        if code not in FINISHED:
            raise _ended(f"the undisturbed run ended with {code}: {self._last_words()}", self._log, code)
        return code

    def _disturbed(self, nemesis: Nemesis, schedule: list[Kill]) -> tuple[Facts, list[str]]:
        """Starts the same command until it is done; how each start ended."""
        ends: list[str] = []
        most = 2 + sum(k.fault == DRIVER for k in schedule)
        code = None
        for number in range(1, most + 1):
            self._tell(f"disturbed, start {number}")
            start = Start(self._argv, self._log)
            try:
                code = nemesis.follow(start)
                start.clear()
            finally:
                start.close()
            ends.append("killed" if code is None else f"exit {code}")
            if code in FINISHED:
                return facts_of(self._case, int(code or 0)), ends
        said = f"the disturbed run did not end after {most} starts (exit {code}): {self._last_words()}"
        raise _ended(f"disproved: {said}", self._log, 6)

    def _fired(
        self, faults: list[str], schedule: list[Kill], nemesis: Nemesis, failures: list[tuple[int, str]]
    ) -> list[Fired]:
        found = []
        for fault in faults:
            if fault == JUDGE and self._judge:
                met = self._judge.fired
                text = "judge failed: " + ", ".join(f"{kind} x{met[kind]}" for kind in sorted(met))
                places = tuple(at for at, _ in failures)
                found.append(Fired(fault, text, len(failures), met.total(), places, "request"))
                continue
            places = tuple(done for kill, done in nemesis.fired if kill.fault == fault)
            planned = sum(kill.fault == fault for kill in schedule)
            counted = next((COUNTED[kill.counted] for kill in schedule if kill.fault == fault), "")
            counted = "step" if self._case.verb == "train" else counted
            found.append(Fired(fault, TEXTS[fault], max(1, planned), len(places), places, counted))
        return found

    def _twice(self, nemesis: Nemesis) -> dict[str, int]:
        twice = {f"units begun again ({step})": count for step, count in nemesis.twice.items()}
        if self._case.verb == "train":
            twice["steps computed again, at least"] = _steps_again(self._case, nemesis.killed_from)
        if self._judge and self._judge.asked:
            paid = self._judge.answered
            twice["judge calls beyond one a question"] = self._judge.asked.total() - len(self._judge.asked)
            twice["verdicts paid twice"] = paid.total() - len(paid)
        return twice

    def _last_words(self) -> str:
        lines = [line for line in _lines(self._log) if line.strip()]
        said = [line for line in lines if line.startswith("error: ")] or lines
        return said[-1][:300].removeprefix("error: ") if said else "it said nothing"


def _steps_again(case: Case, killed_from: list[int]) -> int:
    """Steps behind the checkpoints that a stage went on from, as far as they were seen."""
    told = [row for row in rows(Store(str(case.out)), "metrics") if row]
    went_on = [
        row["step"] - 1
        for before, row in itertools.pairwise(told)
        if row.get("attempt", 1) != before.get("attempt", 1)
    ]
    return sum(max(0, seen - at) for seen, at in zip(killed_from, went_on, strict=False))


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def _ended(said: str, log: Path, code: int) -> RaypipeError:
    """With the next step that the command itself named last."""
    named = [line for line in _lines(log) if line.startswith("  try: ")]
    advice = f"{named[-1][:300].removeprefix('  try: ')}; " if named else ""
    fault = RaypipeError(said, f"{advice}see {log}")
    fault.exit_code = code if code in (1, 2, 4, 5, 6) else 1
    return fault


def render(result: dict[str, Any]) -> str:
    """The proof for people."""
    lines = [f"chaos {result['verb']}, seed {result['seed']}"]
    lines += [f"  {note}" for note in result["notes"]]
    lines.append("faults")
    for f in result["faults"]:
        places = ", ".join(map(str, f["at"]))
        where = f" at {f['counted']} {places}" if places else ""
        said = "fired" if f["fired"] >= f["planned"] else "NOT FIRED"
        lines.append(f"  {f['fault']:<8} {said} {f['fired']} of {f['planned']}{where}: {f['text']}")
    lines.append("against the undisturbed run")
    lines += [f"  {'ok  ' if c['held'] else 'FAIL'} {c['name']}: {c['detail']}" for c in result["checks"]]
    done = ", ".join(f"{count} {what}" for what, count in result["twice"].items())
    lines.append(f"done twice: {done or 'nothing'}")
    took = f"{result['undisturbed_s']:g} s undisturbed, {result['disturbed_s']:g} s disturbed"
    starts = f"{len(result['ends'])} starts ({', '.join(result['ends'])})"
    lines.append(f"{took} in {starts}, {result['units']} commits each")
    if result["scratch"]:
        lines.append(f"both runs and their log are in {result['scratch']}")
    if result["verdict"] == "not proved":
        lines.append("a fault that did not fire proves nothing: take more with --sample, or name others")
    lines.append(f"verdict: {result['verdict']}")
    return "\n".join(lines)


def exit_code(result: dict[str, Any]) -> int:
    """0 proved, 1 not proved because a fault did not fire, 6 disproved."""
    return {"proved": 0, "disproved": 6}.get(result["verdict"], 1)


def dump(result: dict[str, Any]) -> str:
    return json.dumps(result, sort_keys=True)
