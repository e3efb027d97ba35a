"""Checks of what is installed: Python, packages, torch's build, what is compiled when a run starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from raypipe.doctor.checks import Asked, Check, Finding, fail, ok, warn
from raypipe.doctor.hardware import gpus_of
from raypipe.doctor.host import Host

# Modules that raypipe imports and more than one package on the index brings.
SHARED_NAMES = ("av", "cv2", "decord", "PIL", "ray", "torch", "yaml")
# The oldest driver that each major version of CUDA starts with (CUDA's release notes).
DRIVERS = {11: 450, 12: 525, 13: 580}
OFF = ("", "0", "false", "no", "off")


def python(host: Host, _: Asked) -> Iterator[Finding]:
    version, found = host.python()
    if (3, 11) <= version < (3, 13):
        yield ok("python", found)
    else:
        yield fail("python", found, "use Python 3.11 or 3.12")


def packages(host: Host, _: Asked) -> Iterator[Finding]:
    """Every requirement against its range, and against the version that was tested."""
    said = host.requires("raypipe")
    if said is None:
        yield warn("packages", "raypipe itself is not installed", "make setup")
        return
    needs = [Requirement(line) for line in said]
    needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    pins, wrong, other = _pins(host), [], []
    for need in needs:
        have = host.version(need.name)
        if have is None or not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have or 'is not there'} (needs {need.specifier or 'any'})")
        elif need.name in pins and Version(have).public != pins[need.name]:
            other.append(f"{need.name} {have} (tested: {pins[need.name]})")
    install = "install what constraints.txt names: make setup"
    if wrong:
        yield fail("packages", ", ".join(wrong), install)
    if other:
        yield warn("packages", ", ".join(other), install)
    if not wrong and not other:
        what = "at the tested versions" if pins else "in range; no constraints.txt to compare with"
        yield ok("packages", f"{len(needs)} {what}")


def import_names(host: Host, _: Asked) -> Iterator[Finding]:
    """Two packages with one import name: which of them is imported is chance."""
    twice = {name: by for name, by in host.givers(SHARED_NAMES).items() if len(by) > 1}
    for name, by in twice.items():
        said = f"{' and '.join(by)} both bring the module '{name}': which one is imported is chance"
        keep = {"av": "av", "PIL": "pillow", "yaml": "PyYAML"}.get(name, name)
        yield fail("import names", said, f"pip uninstall {' '.join(by)}, then pip install {keep}")
    if not twice:
        yield ok("import names", "each module comes from one package")


def torch_build(host: Host, _: Asked) -> Iterator[Finding]:
    """torch's CUDA against the driver, read without importing it."""
    version, text = host.version("torch"), host.module_file("torch", "version.py") or ""
    gpus = gpus_of(host)
    if version is None:
        yield fail("torch and driver", "torch is not there", "make setup")
        return
    found = re.search(r"^cuda[^=]*=\s*'(\d+)\.(\d+)'", text, re.MULTILINE)
    if found is None:
        if gpus:
            yield fail(
                "torch and driver",
                f"{gpus[0].name} is here, and torch {version} is built for CPUs",
                "install torch for CUDA: pip install torch --index-url https://download.pytorch.org/whl/cu128",
            )
        else:
            yield ok("torch and driver", f"torch {version} is built for CPUs, and no GPU is here")
        return
    cuda = f"{found[1]}.{found[2]}"
    if not gpus:
        yield ok("torch and driver", f"torch {version} with CUDA {cuda}; no GPU is here")
        return
    driver, least = gpus[0].driver, DRIVERS.get(int(found[1]), 0)
    major = int(driver.partition(".")[0]) if driver.partition(".")[0].isdecimal() else 0
    if major < least:
        yield fail(
            "torch and driver",
            f"driver {driver} is too old for CUDA {cuda} of torch {version}, which wants {least} or newer",
            "install a newer driver, or torch for an older CUDA",
        )
    else:
        yield ok("torch and driver", f"torch {version} with CUDA {cuda}, driver {driver}")


def compiler(host: Host, _: Asked) -> Iterator[Finding]:
    """DeepSpeed compiles its operators at first use: g++ and ninja, and on a GPU nvcc for some."""
    lacking = [name for name in ("g++", "ninja") if host.which(name) is None]
    if "ninja" in lacking and host.version("ninja"):
        lacking.remove("ninja")
    if not lacking:
        yield ok("compiler", "g++ and ninja are there, for operators that DeepSpeed compiles")
        return
    said = f"no {' and no '.join(lacking)}"
    if gpus_of(host):
        yield warn(
            "compiler", f"{said}: DeepSpeed cannot compile operators", "apt-get install g++ ninja-build"
        )
    else:
        yield ok("compiler", f"{said}, and none is needed: raypipe's own settings compile nothing on CPUs")


def extensions(host: Host, _: Asked) -> Iterator[Finding]:
    """Where torch puts what it compiles."""
    default = f"{host.home()}/.cache/raypipe/torch_extensions"
    folder = host.environ.get("TORCH_EXTENSIONS_DIR") or default
    if host.writable(folder):
        yield ok("torch extensions", f"{folder} can be written")
    else:
        yield fail(
            "torch extensions",
            f"{folder} cannot be written: compiled operators have no place",
            "export TORCH_EXTENSIONS_DIR=<a folder of this machine that you may write>",
        )


def hub(host: Host, _: Asked) -> Iterator[Finding]:
    """raypipe downloads nothing: models and tokenizers are folders."""
    value = host.environ.get("HF_HUB_OFFLINE")
    if value is not None and value.lower() in OFF:
        yield warn(
            "hub",
            f"HF_HUB_OFFLINE={value}: libraries may ask huggingface.co in the middle of a run",
            "unset it (raypipe sets it to 1), and name models by their folders",
        )
    else:
        yield ok("hub", "huggingface.co is not asked: models are folders")


def encodings(host: Host, _: Asked) -> Iterator[Finding]:
    """File names and texts of the data are UTF-8."""
    names, printed = (value.lower().replace("-", "") for value in host.encodings())
    wrong = [what for what, value in (("file names", names), ("output", printed)) if value != "utf8"]
    if wrong:
        yield fail(
            "locale",
            f"not UTF-8: {' and '.join(wrong)} ({', '.join(host.encodings())}): media of such names are lost",
            "export LANG=C.UTF-8 LC_ALL=C.UTF-8, or PYTHONUTF8=1",
        )
    else:
        yield ok("locale", "file names and output are UTF-8")


def _pins(host: Host) -> dict[str, str]:
    text = host.read(str(Path(__file__).parents[2] / "constraints.txt")) or ""
    lines = [line for line in text.splitlines() if line.count("==") == 1 and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


CHECKS = (
    Check("python", python),
    Check("packages", packages),
    Check("import names", import_names),
    Check("torch and driver", torch_build),
    Check("compiler", compiler),
    Check("torch extensions", extensions),
    Check("hub", hub),
    Check("locale", encodings),
)
