"""Seeded bugs: whatever a disturbed run lost, doubled or changed is found and said."""

from dataclasses import replace

import pytest

from raypipe.chaos.facts import Facts
from raypipe.chaos.proof import Fired, Proof, compare
from raypipe.chaos.run import exit_code, render

CLEAN = Facts(
    code=0,
    ids=("a", "b", "c"),
    files={"predictions/1.arrow": "11", "quarantine.jsonl": "22"},
    verdicts=("v1", "v2"),
    scores={"benchmarks": {"pope": [{"metric": "accuracy", "value": 50.0}]}},
    losses=(2.0, 1.5, 1.25),
    samples=((0, 0, "a"), (0, 1, "b")),
)
FIRED = (Fired("worker", "killed", 1, 1, (2,)),)


def broken(verb: str, exact: bool = True, expected=CLEAN.ids, **changed) -> list[str]:
    checks = compare(verb, None if verb == "train" else expected, CLEAN, replace(CLEAN, **changed), exact)
    assert Proof(tuple(checks), FIRED).verdict == ("proved" if all(c.held for c in checks) else "disproved")
    return [f"{c.name}: {c.detail}" for c in checks if not c.held]


@pytest.mark.parametrize("verb", ["prepare", "evaluate", "train"])
@pytest.mark.parametrize("exact", [True, False])
def test_the_same_is_proved(verb, exact):
    assert broken(verb, exact) == []


BUGS = {
    "a lost unit": ("prepare", {"ids": ("a", "c")}, ["1 lost: b"]),
    "a doubled answer": ("evaluate", {"ids": ("a", "b", "b", "c")}, ["1 doubled: b"]),
    "an input of another run": ("prepare", {"ids": ("a", "b", "c", "d")}, ["1 foreign: d"]),
    "one lost, one doubled": ("evaluate", {"ids": ("a", "a", "c")}, ["1 lost: b; 1 doubled: a"]),
    "another answer": (
        "evaluate",
        {"files": {**CLEAN.files, "predictions/1.arrow": "12"}},
        ["predictions/1.arrow"],
    ),
    "a file too many": ("prepare", {"files": {**CLEAN.files, "media/x.arrow": "9"}}, ["media/x.arrow"]),
    "a lost verdict": ("evaluate", {"verdicts": ("v1",)}, ["1 lost: v2"]),
    "a verdict counted twice": ("evaluate", {"verdicts": ("v1", "v2", "v2")}, ["1 doubled: v2"]),
    "another score": ("evaluate", {"scores": {"benchmarks": {}}}, ["the scores"]),
    "another loss": ("train", {"losses": (2.0, 1.5, 1.2500001)}, ["differs from step 3"]),
    "a step too few": ("train", {"losses": (2.0, 1.5)}, ["3 and 2 steps"]),
    "another order": ("train", {"samples": ((0, 0, "b"), (0, 1, "a"))}, ["in the same order"]),
    "damage": ("prepare", {"damage": ("media/1: content differs from its hash",)}, ["content differs"]),
    "another end": ("prepare", {"code": 3}, ["exit 0 and 3"]),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_found(name):
    verb, changed, said = BUGS[name]
    found = "\n".join(broken(verb, **changed))
    assert found
    for words in said:
        assert words in found


def test_both_runs_wrong_in_the_same_way_are_found_by_the_inputs():
    found = broken("prepare", expected=("a", "b", "c", "d"))
    assert len(found) == 1
    assert "each input is there exactly once" in found[0]
    assert "1 lost: d" in found[0]


def test_two_runs_without_a_sample_prove_nothing():
    """A ledger that is empty in both is the same in both."""
    empty = replace(CLEAN, samples=())
    failed = [c for c in compare("train", None, empty, empty, True) if not c.held]
    assert [(c.name.partition(",")[0], c.detail) for c in failed] == [
        ("the same samples in the same order", "0 samples")
    ]


def test_on_gpus_a_loss_may_be_near():
    assert broken("train", exact=False, losses=(2.0, 1.501, 1.25)) == []
    assert broken("train", exact=False, losses=(2.0, 1.6, 1.25))
    assert broken("train", exact=False, losses=(2.0, None, 1.25))
    assert broken("train", exact=True, losses=(2.0, 1.501, 1.25))


@pytest.mark.parametrize(
    ("fired", "verdict", "code"),
    [
        ((*FIRED, Fired("driver", "killed", 1, 1, (3,))), "proved", 0),
        ((*FIRED, Fired("driver", "killed", 1, 0)), "not proved", 1),
        ((*FIRED, Fired("judge", "failed", 6, 5, (1, 2, 3, 4, 5, 6))), "not proved", 1),
        ((), "not proved", 1),
    ],
)
def test_a_fault_that_did_not_fire_proves_nothing(fired, verdict, code):
    checks = tuple(compare("prepare", CLEAN.ids, CLEAN, CLEAN, True))
    row = Proof(checks, fired).row()
    more = {"verb": "prepare", "seed": 1, "notes": [], "twice": {}, "undisturbed_s": 1, "disturbed_s": 2}
    result = {**row, **more, "ends": ["exit 0"], "units": 4, "scratch": "/s"}
    assert row["verdict"] == verdict
    assert exit_code(result) == code
    assert ("NOT FIRED" in render(result)) == (verdict == "not proved" and bool(fired))
    assert render(result).splitlines()[-1] == f"verdict: {verdict}"


def test_a_failed_check_weighs_more_than_a_fault_that_did_not_fire():
    checks = tuple(compare("prepare", CLEAN.ids, CLEAN, replace(CLEAN, ids=()), True))
    proof = Proof(checks, (Fired("driver", "killed", 1, 0),))
    assert proof.verdict == "disproved"
    assert exit_code(proof.row()) == 6
