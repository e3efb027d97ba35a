"""What the source must not do, found in its syntax: running what it reads, shells, open ports, no limits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

RUNS_WHAT_IT_READS = ("pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "jsonpickle")
CALLS = {
    "eval": "eval",
    "exec": "exec",
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "commands.getoutput": "a shell",
    "tempfile.mktemp": "mktemp",
    "yaml.unsafe_load": "unsafe yaml",
    "yaml.full_load": "unsafe yaml",
    "yaml.unsafe_load_all": "unsafe yaml",
    "yaml.full_load_all": "unsafe yaml",
    "shutil.unpack_archive": "unpacking an archive",
    "numpy.lib.format.read_array": "numpy objects",
}
SAFE_LOADERS = ("yaml.SafeLoader", "yaml.CSafeLoader")
NEEDS_TIMEOUT = {
    **{f"requests.{name}": 99 for name in ("get", "post", "put", "patch", "delete", "head", "request")},
    "urllib.request.urlopen": 2,  # the place of timeout among the arguments
    "http.client.HTTPConnection": 2,
    "http.client.HTTPSConnection": 2,
    "socket.create_connection": 1,
    "httpx.get": 99,
    "httpx.post": 99,
}
EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - what is looked for
HOST_WORDS = ("host", "dashboard_host", "bind", "listen", "ip_address", "node_ip_address", "server_name")


@dataclass(frozen=True)
class Found:
    """A rule that is broken, and where."""

    line: int
    rule: str
    text: str


def broken_rules(source: str) -> list[Found]:
    """The rules that a module breaks, in the order of its lines."""
    tree = ast.parse(source)
    return sorted(_Rules(tree, source).found(), key=lambda found: found.line)


class _Rules:
    def __init__(self, tree: ast.Module, source: str) -> None:
        self._tree, self._lines = tree, source.splitlines()
        self._names = dict(_imports(tree))
        self._loaders = {*SAFE_LOADERS}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(self._name(b) in self._loaders for b in node.bases):
                self._loaders.add(node.name)

    def found(self) -> Iterator[Found]:
        for node in ast.walk(self._tree):
            for rule in self._of(node):
                yield Found(node.lineno, rule, self._lines[node.lineno - 1].strip())  # type: ignore[attr-defined]

    def _of(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from ("pickle" for n in node.names if n.name.split(".")[0] in RUNS_WHAT_IT_READS)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in RUNS_WHAT_IT_READS:
                yield "pickle"
            taken = [f"{node.module}.{n.name}" for n in node.names]
            yield from (CALLS[name] for name in taken if name in CALLS)
        elif isinstance(node, ast.Call):
            yield from self._call(node)

    def _call(self, node: ast.Call) -> Iterator[str]:
        name = self._name(node.func)
        given = {word.arg: word.value for word in node.keywords if word.arg}
        if name in CALLS:
            yield CALLS[name]
        if name.split(".")[-1] in ("__import__",):
            yield "import by a made-up name"
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        of_archive = method == "extract" and {"tarfile", "zipfile"} & {*self._names.values()}
        if method == "extractall" or of_archive:
            yield "unpacking an archive"
        if name == "numpy.load" and not _is(given.get("allow_pickle"), False, absent=True):
            yield "numpy objects"
        if name == "torch.load" and not _is(given.get("weights_only"), True):
            yield "torch pickle"
        if name in ("yaml.load", "yaml.load_all"):
            loader = given.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
            if loader is None or self._name(loader) not in self._loaders:
                yield "unsafe yaml"
        yield from self._words(node, name, given)

    def _words(self, node: ast.Call, name: str, given: dict[str, ast.expr]) -> Iterator[str]:
        if not _is(given.get("shell"), False, absent=True):
            yield "a shell"
        if not _is(given.get("verify"), True, absent=True) and _is(given.get("verify"), False):
            yield "no check of a certificate"
        trust = given.get("trust_remote_code")
        if trust is not None and not _is(trust, False) and not _is_setting(trust):
            yield "remote code"
        place = NEEDS_TIMEOUT.get(name)
        if place is not None and "timeout" not in given and len(node.args) <= place:
            yield "no time limit"
        if name in ("jinja2.Environment", "jinja2.sandbox.Environment") and "autoescape" not in given:
            yield "html that is not escaped"
        hosts = [given[word] for word in HOST_WORDS if word in given]
        if name.endswith(("Server", ".bind")):
            hosts += [arg.elts[0] for arg in node.args if isinstance(arg, ast.Tuple) and arg.elts]
        if any(isinstance(h, ast.Constant) and h.value in EVERYWHERE for h in hosts):
            yield "listens everywhere"

    def _name(self, node: ast.AST) -> str:
        """The dotted name that an expression stands for, through imports; "" where it stands for none."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            known = isinstance(node.value, ast.Attribute) or getattr(node.value, "id", None) in self._names
            return f"{self._name(node.value) if known else ''}.{node.attr}"
        return ""


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for n in node.names:
                yield (n.asname, n.name) if n.asname else (n.name.split(".")[0], n.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for n in node.names:
                yield n.asname or n.name, f"{node.module}.{n.name}"


def _is(node: ast.expr | None, value: bool, absent: bool = False) -> bool:
    """Whether an argument is this constant; one that is not given counts as ``absent`` says."""
    return absent if node is None else isinstance(node, ast.Constant) and node.value is value


def _is_setting(node: ast.expr) -> bool:
    """``settings.NAME``: what a user has said."""
    return (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "settings"
    )
