"""What the source must not do, what it stands on in exact versions, and under which licences."""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.support import ROOT, dependencies
from tests.support.source_rules import broken_rules

SOURCES = sorted(f for folder in ("raypipe", "jobs", "bench") for f in (ROOT / folder).rglob("*.py"))

PLANTED = {
    "pickle": [
        "import pickle",
        "import os, dill as safe",
        "from joblib import load",
        "def f(data):\n    import cloudpickle.compat",
        "import shelve",
        "from marshal import loads",
    ],
    "numpy objects": [
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "from numpy import load as read\nread(f, mmap_mode='r', allow_pickle=flag)",
    ],
    "torch pickle": [
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "from torch import load\nload(f, map_location='cpu')",
    ],
    "unsafe yaml": [
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml as y\ny.unsafe_load(text)",
        "from yaml import full_load",
        "import yaml\nclass Mine(yaml.Loader): ...\nyaml.load(text, Mine)",
    ],
    "a shell": [
        "import os\nos.system('ls')",
        "from os import popen",
        "import subprocess as s\ns.run('ls', shell=True)",
        "import subprocess\nsubprocess.Popen(line, shell=loud)",
        "import subprocess\nsubprocess.getoutput('ls')",
    ],
    "unpacking an archive": [
        "import tarfile\ntarfile.open(f).extractall(folder)",
        "import zipfile\ndef f(archive):\n    archive.extract('a', folder)",
        "import shutil\nshutil.unpack_archive(f)",
    ],
    "eval": ["eval(text)"],
    "exec": ["exec(text)"],
    "import by a made-up name": ["__import__(name)"],
    "remote code": [
        "M.from_pretrained(p, trust_remote_code=True)",
        "M.from_pretrained(p, trust_remote_code=bool(path))",
    ],
    "mktemp": ["import tempfile\ntempfile.mktemp()"],
    "no time limit": [
        "import requests\nrequests.get(url)",
        "from urllib.request import urlopen\nurlopen(url)",
        "import http.client\nhttp.client.HTTPConnection(host, port)",
        "import socket\nsocket.create_connection(address)",
    ],
    "no check of a certificate": ["client(verify=False)"],
    "html that is not escaped": ["import jinja2\njinja2.Environment(loader=x)"],
    "listens everywhere": [
        "from http.server import HTTPServer\nHTTPServer(('0.0.0.0', 80), H)",
        "from http.server import ThreadingHTTPServer as S\nS(('', 80), H)",
        "def f(sock):\n    sock.bind(('', 80))",
        "import ray\nray.init(dashboard_host='0.0.0.0')",
        "serve(host='::')",
    ],
}
FINE = """
import numpy as np, os, subprocess, tempfile, torch, yaml
from urllib.request import urlopen
import http.client, jinja2, socket
from http.server import ThreadingHTTPServer

class Strict(yaml.SafeLoader): ...
class Stricter(Strict): ...

def f(model, settings, text):
    "eval(text), pickle, shell=True and 0.0.0.0 in a text run nothing"
    np.load(text); np.load(text, allow_pickle=False)
    torch.load(text, weights_only=True)
    yaml.load(text, Strict); yaml.load(text, Loader=yaml.CSafeLoader); yaml.safe_load(text)
    subprocess.run(["ls"]); subprocess.run(["ls"], shell=False)
    model.eval(); model.load(text); model.extract(text); settings.exec
    model.from_pretrained(text, trust_remote_code=False)
    model.from_pretrained(text, trust_remote_code=settings.trust_remote_code)
    urlopen(text, timeout=3); urlopen(text, None, 3)
    http.client.HTTPConnection(text, 80, timeout=3); socket.create_connection((text, 80), 3)
    jinja2.Environment(autoescape=True)
    ThreadingHTTPServer(("127.0.0.1", 0), model)
    tempfile.mkstemp(); os.path.join("0.0.0.0", text)
"""


def test_the_source_keeps_the_rules():
    assert len(SOURCES) > 250
    found = [
        f"{f.relative_to(ROOT)}:{b.line}: {b.rule}: {b.text}"
        for f in SOURCES
        for b in broken_rules(f.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(("rule", "source"), [(rule, s) for rule, many in PLANTED.items() for s in many])
def test_what_is_planted_is_found(rule, source):
    assert [b.rule for b in broken_rules(source)] == [rule]


def test_what_is_harmless_is_left_alone():
    assert broken_rules(FINE) == []


def test_a_place_is_named():
    (found,) = broken_rules("x = 1\n\n\neval(text)\n")
    assert (found.line, found.text) == (4, "eval(text)")


def test_every_package_is_pinned_and_is_what_is_installed():
    pinned, packages = dependencies.constraints(), dependencies.closure()
    runtime, dev = dependencies.direct()
    assert {canonicalize_name(r.name) for r in (*runtime, *dev)} <= packages.keys()
    loose = {
        name: sorted(p.asked_by)
        for name, p in packages.items()
        if name not in pinned and not (dependencies.CUDA.match(name) and p.pinned_by)
    }
    assert loose == {}
    installed = {name: version(name).partition("+")[0] for name in packages if name in pinned}
    assert installed == {name: pinned[name] for name in installed}
    # pip freeze also writes down what nothing asks for any more.
    assert len(pinned.keys() - packages.keys()) <= 15


def test_the_constraints_hold_versions_and_no_address():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line and not line.startswith("#")]
    assert len(told) > 100
    assert [line for line in told if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)] == []
    for file in (ROOT / "constraints.txt", ROOT / "pyproject.toml", ROOT / "Makefile"):
        assert not re.search(r"index-url|find-links|://(?!\S*github)", file.read_text(encoding="utf-8")), file


def test_every_licence_is_allowed():
    packages = dependencies.closure()
    bad = {
        name: wrong
        for name, p in packages.items()
        if not dependencies.CUDA.match(name) and (wrong := dependencies.refused(p.licence))
    }
    assert bad == {}


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("MIT", []),
        ("GPL-3.0-only", ["GPL-3.0-only"]),
        ("Apache-2.0 OR GPL-2.0-only", []),
        ("MIT AND GPL-2.0-only", ["GPL-2.0-only"]),
        ("(MIT OR GPL-2.0-only) AND (Apache-2.0 WITH LLVM-exception)", []),
        ("Proprietary", ["Proprietary"]),
        ("", ["no licence"]),
    ],
)
def test_a_licence_that_is_not_allowed_is_named(expression, wrong):
    assert dependencies.refused(expression) == wrong


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the list is that of Python 3.11")
def test_the_list_of_dependencies_is_up_to_date():
    stored = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert stored == dependencies.page(), "python -m tests.support.dependencies > docs/dependencies.md"
    assert "| torch | 2.13.0 |" in stored
    assert "nvidia-" not in stored
    without = [line for line in stored.split("## Behind")[0].splitlines() if line.endswith("|  |")]
    assert without == [], "decision 1 does not say what they own"


def test_the_bill_of_materials_holds_every_package():
    body = json.loads(json.dumps(dependencies.sbom()))
    assert (body["bomFormat"], body["specVersion"]) == ("CycloneDX", "1.5")
    parts = {part["name"]: part for part in body["components"]}
    assert parts.keys() == dependencies.closure().keys()
    assert all(part["purl"] == part["bom-ref"] for part in parts.values())
    assert parts["ray"]["licenses"] == [{"expression": "Apache-2.0"}]
    refs = {part["bom-ref"] for part in parts.values()}
    assert {link["ref"] for link in body["dependencies"]} == refs
    assert {on for link in body["dependencies"] for on in link["dependsOn"]} <= refs
    links = {link["ref"].partition("@")[0]: link["dependsOn"] for link in body["dependencies"]}
    assert f"pkg:pypi/numpy@{version('numpy')}" in links["pkg:pypi/decord"]


def test_wheels_that_hold_other_licences_are_told_of():
    """FFmpeg inside: a wheel that brings another one has to be looked at again."""
    import av
    import decord

    told = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    for module, name in ((av, "av"), (decord, "decord")):
        assert f"| {name} {version(name)} |" in told
        libraries = Path(module.__file__).parent.parent / f"{name}.libs"
        assert (not libraries.is_dir()) or any("x264" in f.name for f in libraries.iterdir())
