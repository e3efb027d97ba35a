"""The command line: words and settings, exit codes, short messages, and nothing heavy before it is needed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe import __version__, cli
from raypipe import benchmark as benchmarks
from raypipe.cli import VERBS, parse
from raypipe.planning.plan import OPTIONS as PLAN_OPTIONS
from tests.report.runs import evaluate_run, prediction
from tests.support.eval_roots import made_up

HEAVY = ("torch", "ray", "pyarrow", "transformers", "numpy", "av", "deepspeed", "pydantic")


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(list(argv))
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def refused(capsys, *argv: str, code: int = 2) -> str:
    """The message of a command that is refused: short, on stderr, without a traceback."""
    got, out, err = run(capsys, *argv)
    assert got == code, err
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 8
    assert "Traceback" not in err
    return err


def imported_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running this."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def test_media_are_unpacked_from_the_command_line(capsys, tmp_path):
    root = str(made_up(tmp_path / "eval", "mmbench:20230712"))
    assert cli.main(["unpack", "mmbench", "--eval-root", root, "--json"]) == 0
    pictures = list((tmp_path / "eval/mmbench/images/20230712").iterdir())
    assert json.loads(capsys.readouterr().out)["written"] == len(pictures) > 0
    assert cli.main(["unpack", "mmbench", "--eval-root", root]) == 0
    assert "0 files written" in capsys.readouterr().out
    root = str(made_up(tmp_path / "eval", "seed_bench"))
    (tmp_path / "videos").mkdir()
    assert cli.main(["unpack", "seed_bench", "--eval-root", root, f"ssv2={tmp_path / 'videos'}"]) == 3
    assert "media_missing" in capsys.readouterr().out
    assert cli.main(["unpack", "seed_bench", "--eval-root", root]) == 2
    assert "give ssv2=DIR epic_kitchens=DIR breakfast=DIR" in capsys.readouterr().err
    assert cli.main(["unpack", "seed_bench", "--eval-root", root, f"svs2={tmp_path}"]) == 2
    assert "ssv2" in capsys.readouterr().err
    assert cli.main(["unpack", "pope", "--eval-root", str(made_up(tmp_path / "eval", "pope"))]) == 2
    assert "files already" in capsys.readouterr().err


def test_a_run_is_exported_and_scored_from_the_command_line(capsys, tmp_path):
    root = made_up(tmp_path / "eval", "gqa")
    questions = benchmarks.load("gqa").questions(root)
    of_run = evaluate_run(tmp_path / "run", [prediction(q, q.reference) for q in questions[:2]], thumbs={})
    out = tmp_path / "answers.jsonl"
    argv = [
        "export",
        "gqa",
        "--eval-root",
        str(root),
        "--run",
        of_run,
        "--format",
        "answers",
        "--out",
        str(out),
    ]
    code, told, _ = run(capsys, *argv, "--json")
    assert code == 0
    assert json.loads(told)["files"] == [str(out)]
    assert run(capsys, *argv)[1] == f"2 answers, 1 missing: {out}\n"
    code, told, _ = run(capsys, "score", "gqa", "--eval-root", str(root), "--answers", str(out))
    assert code == 0
    lines = told.splitlines()
    assert lines[0] == "GQA: 2 questions scored, 1 missing"
    assert lines[2].split() == ["metric", "value", "95", "%", "interval", "n", "missing", "published"]
    assert lines[3].split()[:2] == ["accuracy", "100.000"]
    assert lines[3].split()[-3:] == ["2", "1", "60.3"]


def test_what_is_quoted_from_a_hostile_file_is_cut(capsys, tmp_path):
    root = made_up(tmp_path, "pope")
    path = root / "pope/llava_pope_test.jsonl"
    path.write_text(
        json.dumps({"question_id": 1, "image": "a.jpg", "text": "x" * 100_000, "category": "y" * 100_000})
    )
    said = refused(capsys, "score", "pope", "--eval-root", str(root), "--answers", str(path))
    assert str(path) in said
    assert max(len(line) for line in said.splitlines()) < 1100


def test_every_file_of_verdicts_is_read(capsys, tmp_path):
    root = made_up(tmp_path, "msvd_qa")
    for name, row in (("a", "v_a_1"), ("b", "v_a_2"), ("c", "v_b_1")):
        (tmp_path / f"{name}.json").write_text(json.dumps({row: [{"pred": "yes", "score": 4}, {}]}))
    a, b, c = (str(tmp_path / f"{n}.json") for n in "abc")
    for files in (["--verdicts", a, b, c], ["--verdicts", a, "--verdicts", b, c]):
        code, told, _ = run(capsys, "score", "msvd_qa", "--eval-root", str(root), *files, "--json")
        assert code == 0
        assert json.loads(told)["n"] == 3


@pytest.mark.parametrize("argv", [["--help"], [], ["--version"], ["train", "--help"], ["evaluate", "-h"]])
def test_help_imports_nothing_heavy(argv):
    loaded = imported_by(f"from raypipe import cli\nassert cli.main({argv!r}) == 0")
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    "module",
    [
        "raypipe.grading.metrics",
        "raypipe.report.run",
        "raypipe.report.score",
        "raypipe.report.export",
        "raypipe.report.listing",
        "raypipe.benchmark",
        *(f"raypipe.commands.{v}" for v in sorted({v.module for v in VERBS.values()})),
    ],
)
def test_grading_and_reporting_need_no_engine(module):
    load = "import importlib, raypipe.benchmark as b\n[b.load(n) for n in b.names()]\n"
    loaded = imported_by(f"{load}importlib.import_module({module!r})")
    assert not loaded & {"torch", "ray", "transformers", "deepspeed", "av", "decord"}
    assert "raypipe" in loaded


def test_usage_names_every_verb_and_exit_code(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(f"  {verb} " in out for verb in VERBS)
    assert all(f"{n} " in out for n in (0, 2, 3, 4, 5, 6, 1))
    for verb in VERBS:
        code, out, _ = run(capsys, verb, "--help")
        assert code == 0
        assert f"usage: raypipe {verb}" in out
    assert run(capsys, "--version")[1].strip() == __version__


@pytest.mark.parametrize(
    ("argv", "words", "settings", "flags"),
    [
        (["a.yaml", "x=1", "y.z=2"], ["a.yaml"], ["x=1", "y.z=2"], set()),
        (["--x", "1", "--y.z=2", "a.yaml"], ["a.yaml"], ["x=1", "y.z=2"], set()),
        (["--eval-root", "e", "--json"], [], ["eval_root=e"], {"json"}),
        (["--model-base=b", "--debug"], [], ["model_base=b"], {"debug"}),
        (["clip.mp4", "What is 1 + 1 = ?"], ["clip.mp4", "What is 1 + 1 = ?"], [], set()),
        (["x=a=b", "x="], [], ["x=a=b", "x="], set()),
        (["./a/b=c"], ["./a/b=c"], [], set()),
    ],
)
def test_parsing(argv, words, settings, flags):
    request = parse(argv)
    assert (request.words, request.settings, request.flags) == (words, settings, flags)


@pytest.mark.parametrize(
    ("argv", "words", "settings", "flags"),
    [
        (["logs", "/r", "--all"], ["logs", "/r"], [], {"all"}),
        (["logs", "--all", "/r"], ["logs", "/r"], [], {"all"}),
        (["--detach", "logs", "--follow", "/r"], ["logs", "/r"], [], {"detach", "follow"}),
        (
            ["logs", "/r", "--no-wait", "--address", "h", "--all"],
            ["logs", "/r"],
            ["address=h"],
            {"all", "no_wait"},
        ),
        (["status", "--all", "/r"], ["status"], ["all=/r"], set()),
    ],
)
def test_submit_takes_the_flags_of_its_verb(argv, words, settings, flags):
    request = parse(argv, "submit")
    assert (request.words, request.settings, request.flags) == (words, settings, flags)


@pytest.mark.parametrize("verb", ["status", "logs", "verify"])
def test_the_root_of_the_disk_is_named(capsys, verb):
    assert "not a run folder: /\n" in refused(capsys, verb, "/")


@pytest.mark.parametrize("name", PLAN_OPTIONS)
def test_an_option_of_plan_that_is_empty_is_named(capsys, name):
    assert f"{name}= is empty" in refused(capsys, "plan", "jobs/prepare.yaml", f"{name}=")


def test_of_several_values_the_last_counts():
    request = parse(["--out", "a", "out=b", "json=c"])
    assert request.take("out") == "b"
    assert request.settings == ["json=c"]


def test_unknown_verbs_name_the_nearest(capsys):
    assert "did you mean 'prepare'?" in refused(capsys, "prepair")
    assert "valid: " in refused(capsys, "xyz")


DATASET = "name: d\ndata_root: {root}/data\nannotations: [a.json]\nout: {root}/out\n"


@pytest.fixture
def yaml(tmp_path) -> Path:
    (tmp_path / "set.yaml").write_text(DATASET.format(root=tmp_path))
    return tmp_path / "set.yaml"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("smapling.frames=4", "did you mean 'sampling'?"),
        ("sampling.frmes=4", "did you mean 'frames'?"),
        ("limits.timeout=4", "did you mean 'timeout_s'?"),
        ("sampling.frames=0", "sampling.frames"),
        ("sampling.frames=many", "sampling.frames"),
        ("rendition.codec=gif", "rendition.codec"),
        ("error_budget=2", "error_budget"),
        ("annotations=[]", "annotations"),
        ("name=[a", "not valid yaml"),
        ("name.x=4", "name is not a group"),
    ],
)
def test_settings_that_are_wrong(capsys, yaml, setting, said):
    assert said in refused(capsys, "prepare", str(yaml), setting)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: d\nout: o\n", "is missing"),
        ("nmae: d\n", "did you mean 'name'?"),
        ("- a\n", "does not hold settings"),
        ("a: [b\n", "not valid yaml"),
        ("", "does not hold settings"),
        ("\x00", "not valid yaml"),
    ],
)
def test_yaml_that_is_wrong(capsys, yaml, text, said):
    yaml.write_text(text)
    assert said in refused(capsys, "prepare", str(yaml))


def test_yaml_that_is_missing(capsys, yaml):
    assert "which settings?" in refused(capsys, "prepare")
    assert "did you mean 'set.yaml'?" in refused(capsys, "prepare", str(yaml.with_name("sett.yaml")))
    assert "cannot read" in refused(capsys, "prepare", str(_folder(yaml.with_name("dir.yaml"))))
    assert "neither a yaml file nor" in refused(capsys, "prepare", str(yaml), "sampling")


@pytest.mark.parametrize(
    ("there", "said"), [([], "no such data root"), (["data"], "no such annotation file")]
)
def test_prepare_looks_for_its_data_before_it_waits_for_a_cluster(capsys, yaml, monkeypatch, there, said):
    for name in there:
        _folder(yaml.with_name(name))
    monkeypatch.setattr("raypipe.cluster.connected", None)
    assert said in refused(capsys, "prepare", str(yaml))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "argv", [["verify", "{dir}"], ["report", "{dir}"], ["compare", "{dir}", "{dir}"], ["judge", "{dir}"]]
)
def test_a_folder_that_is_no_run(capsys, tmp_path, argv):
    assert "not a run folder" in refused(capsys, *[a.format(dir=tmp_path) for a in argv])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["score", "pop", "--eval-root", "{root}", "--answers", "a.jsonl"], "did you mean 'pope'?"),
        (["score", "pope", "--eval-root", "/no/such", "--answers", "a.jsonl"], "/no/such"),
        (["score", "pope", "--eval-root", "{root}", "--answers", "/no/such.jsonl"], "/no/such.jsonl"),
        (["score", "pope", "--eval-root", "{root}"], "--answers FILE or --verdicts"),
        (["score", "--eval-root", "{root}", "--answers", "a"], "which benchmark"),
        (["score", "pope", "--answers", "a"], "--eval-root is missing"),
        (
            ["score", "pope", "--eval-root", "{root}", "--answers", "a", "--answer", "b"],
            "did you mean 'answers'?",
        ),
        (["score", "pope", "--eval-root", "{root}", "--answers", "a", "--split", "val"], "no split 'val'"),
        (["export", "--eval-root", "{root}", "--out", "o", "--answers", "a"], "which benchmark"),
        (["export", "pope", "--eval-root", "{root}", "--out", "o"], "--answers FILE or --run RUN"),
        (["export", "pope", "--eval-root", "{root}", "--answers", "a"], "--out is missing"),
        (["export", "pope", "--eval-root", "{root}", "--out", "o", "--answers", "a"], "no evaluation server"),
        (["export", "pope", "eval_root={root}", "out=o", "run={root}", "format=xls"], "no format is called"),
        (["export", "pope", "eval_root={root}", "out=o", "run={root}", "format=answers"], "not a run folder"),
        (["export", "pope", "eval_root={root}", "out=o", "answer=a"], "did you mean 'answers'?"),
        (["ask", "--model", "/no/such", "a.mp4", "what?"], "no such model folder"),
        (["ask", "a.mp4", "what?"], "--model is missing"),
        (["ask", "--model", "m", "a.mp4"], "a file and a question"),
        (["ask", "--model", "m", "--max-new-tokens", "many", "a.mp4", "q"], "max_new_tokens"),
        (["merge", "--adapter", "a", "--model-base", "b"], "--out is missing"),
        (["merge", "--adapter", "/no/a", "--model-base", "/no/b", "--out", "o"], "no such model folder"),
        (["merge", "--adapter", "a", "--out", "o"], "--model-base is missing"),
        (["merge", "--adapter", "a", "--out", "o", "--layout", "gguf"], "no layout 'gguf'"),
        (["compare", "a"], "two evaluation runs"),
        (["verify"], "exactly one RUN"),
        (["report"], "which runs"),
        (["prepare", "--out"], "needs a value"),
        (["benchmarks", "--all", "1"], "no option 'all'"),
    ],
)
def test_requests_that_are_wrong(capsys, tmp_path, argv, said):
    made_up(tmp_path, "pope")
    assert said in refused(capsys, *[a.format(root=tmp_path) for a in argv])


def test_a_fault_of_our_own_is_one_line_and_code_1(capsys, monkeypatch):
    def broken(request):
        raise ZeroDivisionError("a fault\nof two lines")

    monkeypatch.setattr("raypipe.commands.results.benchmarks", broken)
    assert "ZeroDivisionError: a fault\n" in refused(capsys, "benchmarks", code=1)
    code, _, err = run(capsys, "benchmarks", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_an_interrupt_is_a_resumable_stop(capsys, monkeypatch):
    def stopped(request):
        raise KeyboardInterrupt

    monkeypatch.setattr("raypipe.commands.results.benchmarks", stopped)
    code, _, err = run(capsys, "benchmarks")
    assert code == 4
    assert "run the same command again" in err


def test_sigterm_stops_with_code_4(tmp_path):
    """The signal a cluster sends before it takes a machine away."""
    script = (
        "import sys, time\nfrom raypipe import cli\nfrom raypipe.commands import results\n"
        "def slow(request):\n    print('on', flush=True)\n    time.sleep(60)\n"
        "results.benchmarks = slow\nsys.exit(cli.main(['benchmarks']))"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == b"on\n"
    child.terminate()
    _, err = child.communicate(timeout=30)
    assert child.returncode == 4
    assert b"what was committed stays" in err
    assert b"raypipe benchmarks" in err


def test_a_second_interrupt_ends_at_once(tmp_path):
    script = (
        "import sys, time\nfrom raypipe import cli\nfrom raypipe.commands import results\n"
        "def slow(request):\n"
        "    try:\n        print('on', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('tidying up', flush=True)\n        time.sleep(60)\n"
        "results.benchmarks = slow\nsys.exit(cli.main(['benchmarks']))"
    )
    command = [sys.executable, "-c", script]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout.readline() == b"on\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == b"tidying up\n"
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 4


def test_json_is_one_object_alone_on_stdout(capsys, tmp_path):
    code, out, _ = run(capsys, "benchmarks", "--json")
    assert code == 0
    assert len(json.loads(out)["benchmarks"]) >= 7
    made_up(tmp_path, "pope")
    lines = [{"question_id": n, "text": "yes"} for n in range(1, 6)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    argv = ["score", "pope", f"eval_root={tmp_path}", f"answers={tmp_path / 'answers.jsonl'}"]
    code, out, _ = run(capsys, *argv, "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)["benchmark"] == "pope"
    assert run(capsys, *argv)[0] == 0
