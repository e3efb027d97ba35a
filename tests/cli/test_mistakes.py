"""Common mistakes over all verbs, each answered in eight lines or less, with the next step and no traceback.

The verbs run to the point where they would need a cluster; none of these mistakes gets that far.
"""

from __future__ import annotations

import contextlib
import random
import shlex
import socket
import string
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from raypipe import benchmark, cli
from raypipe.errors import RequestError, nearest
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    JudgeSettings,
    StageSettings,
    TuneSettings,
    build,
)
from raypipe.settings.faults import names_of
from tests.cli.scene import Scene
from tests.cli.scene import build as build_scene

P = ("prepare", "d.yaml")


@dataclass(frozen=True)
class Mistake:
    """A line of mistakes.txt: what is typed, and what the answer has to say."""

    name: str
    code: int
    what: str
    step: str
    line: tuple[str, ...]


def _read() -> list[Mistake]:
    found = []
    for text in Path(__file__).with_name("mistakes.txt").read_text().splitlines():
        if not text.startswith("#"):
            name, code, what, step, line = (part.strip() for part in text.split("|"))
            found.append(Mistake(name, int(code), what, step, tuple(shlex.split(line))))
    return found


MISTAKES = _read()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return build_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that would connect goes on alone, and may not start a Ray of its own."""
    monkeypatch.setattr("raypipe.cluster.connected", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr("raypipe.cluster.facts", dict)
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def answered(capsys, scene: Scene, line: tuple[str, ...]) -> tuple[int, str]:
    """The exit code and the error with its next step."""
    code = cli.main(scene.argv(line))
    caught = capsys.readouterr()
    assert caught.out == ""
    assert "Traceback" not in caught.err
    said = "error: " + caught.err.rpartition("error: ")[2]
    assert len(said.splitlines()) <= 8
    before = caught.err.removesuffix(said).splitlines()
    assert all(text.endswith(" ...") for text in before), before  # which step it was in
    return code, said


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_answered_with_the_next_step(capsys, scene, monkeypatch, mistake):
    monkeypatch.chdir(scene.root / "desk")
    code, said = answered(capsys, scene, mistake.line)
    message, _, remedy = said.partition("\n  try: ")
    assert code == mistake.code, said
    assert mistake.what.replace("$R", str(scene.root)) in (said if code == 6 else message)
    assert remedy, said
    assert mistake.step in said.rpartition("try: ")[2]
    assert "0123456789abcdef" not in said
    for left in ("out", "stage", "search", "evaluated", "m", "ran"):
        assert not (scene.root / left).exists()  # a request that is wrong leaves nothing behind


def test_there_are_fifty_and_every_verb_is_among_them():
    verbs = {mistake.line[0] for mistake in MISTAKES} & set(cli.VERBS)
    assert len(MISTAKES) >= 50
    assert set(cli.VERBS) - verbs <= {"unpack", "benchmarks", "demo", "cluster", "chaos", "export"}


def test_a_port_that_another_program_has(capsys, scene, monkeypatch):
    """What answers there is no dashboard."""
    monkeypatch.chdir(scene.root / "desk")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def answer() -> None:
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                peer.recv(1000)
                peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                peer.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        code, said = answered(capsys, scene, ("submit", *P, f"address={address}"))
        thread.join(30)
    assert code == 5
    assert "try: " in said


def test_a_second_driver(capsys, scene, monkeypatch, tmp_path):
    from raypipe.store.files import Store
    from raypipe.store.lease import Lease

    monkeypatch.chdir(scene.root / "desk")
    out = tmp_path / "run"
    with Lease.take(Store(str(out))):
        code, said = answered(capsys, scene, (*P, f"out={out}"))
    assert code == 5
    assert "try: " in said
    assert "driver" in said or "at work" in said


def one_edit(name: str, dice: random.Random) -> str:
    """A slip of the keys: a letter doubled, left out, changed, put in, or swapped with the next."""
    while True:
        at = dice.randrange(len(name))
        letter = dice.choice(string.ascii_lowercase)
        slip = dice.choice(("out", "changed", "in", "twice", "swapped"))
        made = {
            "out": name[:at] + name[at + 1 :],
            "changed": name[:at] + letter + name[at + 1 :],
            "in": name[:at] + letter + name[at:],
            "twice": name[: at + 1] + name[at:],
            "swapped": name[:at] + name[at + 1 : at + 2] + name[at : at + 1] + name[at + 2 :],
        }[slip]
        if made != name and made:
            return made


def groups() -> dict[str, list[str]]:
    """Every list of names that a person types."""
    kinds = (DatasetSettings, StageSettings, EvaluateSettings, TuneSettings, JudgeSettings)
    return {
        "verbs": list(cli.VERBS),
        "benchmarks": benchmark.names(),
        **{kind.__name__: [n for n in names_of(kind) if "." not in n] for kind in kinds},
    }


def test_misspelt_names_get_the_right_suggestion():
    dice, right, asked, wrong = random.Random(7), 0, 0, []
    for names in groups().values():
        for name in names:
            for _ in range(5):
                typed = one_edit(name, dice)
                if typed in names:
                    continue
                asked += 1
                hit = f"did you mean '{name}'?" in nearest(typed, names)
                right += hit
                wrong += [] if hit else [(typed, name)]
    assert asked > 500
    assert right / asked >= 0.95, wrong


@pytest.mark.parametrize("kind", [DatasetSettings, StageSettings, EvaluateSettings, TuneSettings])
def test_misspelt_settings_get_it_by_way_of_the_command_line(kind):
    """The same, through the refusal that a person sees, for every setting with its group."""
    dice, right, asked = random.Random(11), 0, 0
    for name in names_of(kind):
        group, _, last = name.rpartition(".")
        typed = one_edit(last, dice)
        data: dict = {typed: 1}
        for key in reversed(group.split(".") if group else []):
            data = {key: data}
        try:
            build(kind, data, "x")
        except RequestError as fault:
            if "unknown setting" not in fault.message:
                continue  # the slip made another setting's name
            asked += 1
            right += f"'{last}'?" in fault.remedy or f".{last}'?" in fault.remedy
    assert asked > 10
    assert right / asked >= 0.95


def test_the_scene_is_not_changed(scene):
    """Nothing above wrote into what it was pointed at."""
    from raypipe.store.verify import verify

    assert verify(str(scene.root / "drawn/run")).damage == []
    assert not Path("/proc/nope").exists()
