"""Every package that raypipe brings with it: version, licence, why; as a page of the docs or as an SBOM.

    python -m tests.support.dependencies > docs/dependencies.md
    python -m tests.support.dependencies --sbom > sbom.json

Read from what is installed, by pyproject.toml and constraints.txt. The packages of NVIDIA that torch's CUDA
build brings are left out of the page, so that it is the same on machines with and without them.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

CUDA = re.compile(r"^(nvidia-|cuda-|triton$|pytorch-triton)")  # of torch's CUDA build; torch pins them itself
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"),
    *("MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib", "HPND", "AFL", "ISC"),
    "Apache-2.0 WITH LLVM-exception",
}
# What packages call their licence -> its SPDX name; "BSD" is kept where nobody says which one.
SPELLINGS = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "mit license": "MIT",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "bsd license": "BSD",
    "bsd 2-clause license": "BSD-2-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "academic free license (afl)": "AFL",
    "dual license": "",  # the classifiers say of what
}
NO_LICENCE = ("dfsg approved", "osi approved")  # ends of classifiers that name none
HEAD = ("| package | version | licence | asked for by |", "|---|---|---|---|")
BUNDLED = (ROOT / "tests/support/bundled.md").read_text()


@dataclass
class Package:
    """An installed package and who asks for it."""

    name: str
    version: str
    licence: str
    asked_by: set[str] = field(default_factory=set)
    pinned_by: set[str] = field(default_factory=set)  # that ask for exactly one version
    dev: bool = False
    runtime: bool = False


def direct() -> tuple[list[Requirement], list[Requirement]]:
    """What pyproject.toml asks for: to run, and to develop."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = [Requirement(r) for r in project["dependencies"]]
    return runtime, [Requirement(r) for r in project["optional-dependencies"]["dev"]]


def constraints() -> dict[str, str]:
    """The versions of constraints.txt by canonical name."""
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in pairs}


def closure() -> dict[str, Package]:
    """Every package that has to be installed, by canonical name.

    Raises:
        PackageNotFoundError: one of them is not.
    """
    found: dict[str, Package] = {}
    runtime, dev = direct()
    todo = [("raypipe", r, True) for r in runtime] + [("raypipe", r, False) for r in dev]
    seen: set[tuple[str, str, bool]] = set()
    while todo:
        asker, wanted, is_runtime = todo.pop()
        name = canonicalize_name(wanted.name)
        installed = distribution(wanted.name)
        number = installed.version.partition("+")[0]  # without the build: +cpu, +cu130
        package = found.setdefault(name, Package(name, number, licence(installed)))
        package.asked_by.add(asker)
        package.runtime |= is_runtime
        package.dev |= not is_runtime
        if any(s.operator == "==" and "*" not in s.version for s in wanted.specifier):
            package.pinned_by.add(asker)
        for extra in sorted({"", *wanted.extras}):
            if (name, extra, is_runtime) not in seen:
                seen.add((name, extra, is_runtime))
                todo += [(name, r, is_runtime) for r in _requires(installed, extra)]
    return found


def _requires(installed: Distribution, extra: str) -> Iterator[Requirement]:
    for line in installed.requires or []:
        wanted = Requirement(line)
        if wanted.marker is None:
            if not extra:
                yield wanted
        elif wanted.marker.evaluate({"extra": extra}):
            yield wanted


def licence(installed: Distribution) -> str:
    """The licence as an SPDX expression, as far as the package says it; "" where it says nothing."""
    metadata = installed.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    text = str(metadata.get("License") or "").strip()
    told = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License")]
    named = [_spdx(c.rpartition("::")[2].strip()) for c in told if not c.lower().endswith(NO_LICENCE)]
    short = _spdx(text) if text and "\n" not in text and len(text) < 60 else ""
    if short and not (short == "BSD" and named):
        return short
    return " OR ".join(dict.fromkeys(named))


def _spdx(text: str) -> str:
    return SPELLINGS.get(text.lower(), text)


def refused(expression: str) -> list[str]:
    """The licences of an expression that are not allowed; of alternatives one has to be."""
    if not expression:
        return ["no licence"]
    bad: list[str] = []
    for part in re.split(r"\s+AND\s+", expression.replace("(", "").replace(")", "")):
        choices = [choice.strip() for choice in re.split(r"\s+OR\s+", part)]
        if not any(choice in ALLOWED for choice in choices):
            bad += choices
    return bad


def page() -> str:
    """docs/dependencies.md."""
    packages = {name: p for name, p in closure().items() if not CUDA.match(name)}
    runtime, dev = direct()
    asked = {canonicalize_name(r.name) for r in runtime}
    reasons = _reasons()
    lines = [
        "# Dependencies and their licences",
        "",
        "Made by `python -m tests.support.dependencies` from what is installed; `--sbom` makes a CycloneDX",
        "document of it. A test says when this page is out of date. Versions are those of `constraints.txt`.",
        "Why each is taken, and what was not: decision 1.",
        "",
        "## Direct",
        "",
        "| package | version | licence | owns |",
        "|---|---|---|---|",
    ]
    lines += [_row(packages[name], reasons.get(name, "")) for name in sorted(asked)]
    others = sorted(n for n, p in packages.items() if p.runtime and n not in asked)
    lines += ["", f"## Behind them ({len(others)})", "", *HEAD]
    lines += [_row(packages[name], _askers(packages[name], packages)) for name in others]
    only_dev = sorted(n for n, p in packages.items() if not p.runtime)
    wanted = {canonicalize_name(r.name) for r in dev}
    lines += [
        "",
        f"## For development only ({len(only_dev)})",
        "",
        "| package | version | licence | asked for by |",
    ]
    lines += ["|---|---|---|---|"]
    for name in only_dev:
        lines.append(_row(packages[name], "raypipe" if name in wanted else _askers(packages[name], packages)))
    return "\n".join([*lines, "", BUNDLED])


def _row(package: Package, last: str) -> str:
    return f"| {package.name} | {package.version} | {package.licence} | {last} |"


def _askers(package: Package, packages: dict[str, Package]) -> str:
    names = sorted(n for n in package.asked_by if n in packages)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _reasons() -> dict[str, str]:
    """What each direct dependency owns, as decision 1 has it."""
    text = (ROOT / "docs/decisions/0001-dependencies.md").read_text()
    rows = re.findall(r"(?m)^\| ([A-Za-z0-9_.-]+)(?:\[[^\]]*\])? \| ([^|]+) \|", text)
    return {canonicalize_name(name): owns.strip() for name, owns in rows}


def sbom() -> dict[str, object]:
    """The same as a CycloneDX document, with all that is installed here, NVIDIA's packages too."""
    packages = closure()
    parts = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{p.name}@{p.version}",
            "name": p.name,
            "version": p.version,
            "purl": f"pkg:pypi/{p.name}@{p.version}",
            "licenses": [{"expression": p.licence}] if p.licence else [],
        }
        for _, p in sorted(packages.items())
    ]
    askers = {name: sorted(n for n, p in packages.items() if name in p.asked_by) for name in packages}
    links = [
        {
            "ref": f"pkg:pypi/{name}@{packages[name].version}",
            "dependsOn": [f"pkg:pypi/{n}@{packages[n].version}" for n in asked],
        }
        for name, asked in sorted(askers.items())
    ]
    about = {"type": "application", "name": "raypipe", "version": distribution("raypipe").version}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    return {**head, "metadata": {"component": about}, "components": parts, "dependencies": links}


def main(argv: list[str]) -> None:
    try:
        print(json.dumps(sbom(), indent=1) if "--sbom" in argv else page(), end="")
    except PackageNotFoundError as lack:
        sys.exit(f"{lack.name} is asked for and not installed: make setup")


if __name__ == "__main__":
    main(sys.argv[1:])
