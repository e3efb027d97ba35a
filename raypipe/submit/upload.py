"""What of a folder goes to the cluster: listed, weighed and looked through before anything is sent.

Ray packs the folder and leaves out what .gitignore and .rayignore name. The patterns here hold beside them,
and in a folder that has neither file.
"""

from __future__ import annotations

import logging
import mmap
import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.redaction import KEYS

MIB = 1 << 20
LIMIT_MIB = 100  # Ray takes up to 512 MiB; code and settings are a hundredth of that
MAX_FILES = 20_000
PROBED_BYTES = 8192  # of a file: with a zero byte among them it holds no text
WHOLE_BYTES = MIB  # a smaller file is looked through even so

SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.token"),
    *("*_key", "*_token", ".boto", ".htpasswd", ".docker/", "**/.config/gcloud/"),
    *("auth_token", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh/", ".aws/", ".ray/", ".kube/"),
    *(".gnupg/", ".netrc", ".pypirc", ".npmrc", ".git-credentials", "kubeconfig", "credentials"),
    *("credentials.json", "secrets/", ".secrets/"),
)
DATA = (
    *("*.mp4", "*.mkv", "*.webm", "*.avi", "*.mov", "*.m4v", "*.mpg", "*.flv", "*.wmv", "videos/"),
    *("*.safetensors", "*.arrow", "*.parquet", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx"),
    *("*.tar", "*.tar.gz", "*.tgz", "*.zip", "*.whl"),
)
MADE = (
    *(".git/", ".venv/", "venv/", "env/", "node_modules/", "__pycache__/", ".cache/", ".*_cache/"),
    *(
        ".ipynb_checkpoints/",
        "/runs/",
        "/prepared/",
        "/report/",
        "/wandb/",
        "/build/",
        "/dist/",
        "*.egg-info/",
    ),
)


def _any_case(pattern: str) -> str:
    """The ending of a file in capitals, too, as cameras and Windows write it: ``*.[mM][pP]4``."""
    if not pattern.startswith("*."):
        return pattern
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in pattern)


EXCLUDES = [_any_case(pattern) for pattern in (*SECRETS, *DATA, *MADE)]
_LEAVE_OUT = "name it, or the folder that holds it, in .rayignore"

# No keys: scikit-learn's styles (sk-estimator-doc-link), SSH's kinds of keys (sk-ecdsa-sha2-nistp256).
_KEYS = re.compile(rf"(?!sk-(?:ecdsa-|[A-Za-z_-]+(?![\w-])))(?:{KEYS})".encode())
# With what KEYS begin: a plain text is found several times faster than a choice of shapes.
_BEGINNINGS = (
    *(b"-----BEGIN ", b"sk-", b"hf_", b"gho_", b"ghp_", b"ghr_", b"ghs_", b"ghu_", b"github_pat_", b"glpat-"),
    *(b"AKIA", b"ASIA", b"AIza", b"nvapi-", b"xox", b"eyJ"),
)
_LONGEST = 1 << 16  # bytes that are looked at behind a beginning


@dataclass(frozen=True)
class Upload:
    """The files of a folder that would be sent, with their sizes in bytes; paths are relative to ``root``."""

    root: Path
    sizes: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def holds(self, path: str) -> bool:
        """Whether a relative path, a file or a folder, would be there on the cluster."""
        wanted = os.path.normpath(path)
        return wanted == "." or any(f == wanted or f.startswith(wanted + os.sep) for f in self.sizes)

    def largest(self, shown: int = 4) -> str:
        """The entries that weigh most, for a person."""
        weights: Counter[str] = Counter()
        for name, size in self.sizes.items():
            first, *rest = name.split(os.sep)
            weights[first + ("/" if rest else "")] += size
        return ", ".join(f"{name} ({size / MIB:.1f} MiB)" for name, size in weights.most_common(shown))


def chosen(root: Path, limit_mib: int = LIMIT_MIB) -> Upload:
    """The files of a folder that go to the cluster, by Ray's own rules and the patterns here.

    Raises:
        RequestError: too much, too many files, a file that looks as if it held a key, or one that Ray cannot
            pack.
    """
    upload = Upload(root, _listed(root))
    if upload.bytes > limit_mib * MIB:
        raise RequestError(
            f"{root} is {upload.bytes / MIB:.0f} MiB to upload, the limit is {limit_mib} MiB; "
            f"largest: {upload.largest()}",
            "name what the job does not need in .rayignore; data, models and runs belong on storage that "
            "all nodes share",
        )
    for name, size in upload.sizes.items():
        if size:
            _refuse_keys(root / name, name)
    return upload


def package(upload: Upload) -> tuple[str, bytes]:
    """Ray's name of the package, made of its content, and its bytes."""
    from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    gitignore = _gitignore_counts()
    uri = get_uri_for_directory(str(upload.root), gitignore, excludes=EXCLUDES)
    with tempfile.TemporaryDirectory(prefix="raypipe-upload-") as folder:
        file = Path(folder) / "package.zip"
        create_package(str(upload.root), file, include_gitignore=gitignore, excludes=EXCLUDES)
        return uri, file.read_bytes()


def _gitignore_counts() -> bool:
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE

    return os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"


def _listed(root: Path) -> dict[str, int]:
    """Walks a folder as Ray does when it packs it."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[str, int] = {}
    folders: list[Path] = []

    def note(path: Path) -> None:
        name = str(path.relative_to(root))
        _refuse_unpackable(path, name)
        if path.is_dir():
            folders.append(path)
        if not path.is_file():
            return
        sizes[name] = path.stat().st_size
        if len(sizes) > MAX_FILES:
            raise RequestError(
                f"{root} has more than {MAX_FILES} files to upload; most: {_fullest(sizes)}",
                "start from the folder of your settings, or name what the job does not need in .rayignore",
            )

    try:
        _dir_travel(root, [_get_excludes(root, EXCLUDES)], note, _gitignore_counts(), logger=_quiet())
    except OSError as fault:
        raise RequestError(f"cannot read {fault.filename}: {fault.strerror}", _LEAVE_OUT) from None
    except (ValueError, IndexError):  # Ray's, of an ignore file that it does not name
        file, reason = _broken_ignore_file(root, folders)
        raise RequestError(
            f"{file} cannot be read as patterns: {reason}",
            "write it in UTF-8, each line a pattern as git takes them ('!' alone is none)",
        ) from None
    return sizes


def _refuse_unpackable(path: Path, name: str) -> None:
    """Of what Ray would send: names that no package can hold, and what has no end or waits for a writer."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"the name {name!r} is not UTF-8; nothing was uploaded", f"rename it, or {_LEAVE_OUT}"
        ) from None
    if path.is_fifo() or path.is_char_device() or path.is_block_device():
        raise RequestError(f"{name} is a pipe or a device; nothing was uploaded", _LEAVE_OUT)


def _broken_ignore_file(root: Path, folders: list[Path]) -> tuple[str, str]:
    """The ignore file that ended a walk, which reads those of a folder before it comes into it."""
    from ray._private.runtime_env.packaging import _get_ignore_file

    inner = (path for folder in folders for path in folder.iterdir() if path.is_dir())
    for folder in (root, *inner):
        for name in (".gitignore", ".rayignore"):
            try:
                _get_ignore_file(folder, name)
            except UnicodeDecodeError:
                return str((folder / name).relative_to(root)), "it is not UTF-8"
            except (ValueError, IndexError):
                return str((folder / name).relative_to(root)), "a line is no pattern"
    return "an ignore file", "it has changed meanwhile"


def _quiet() -> logging.Logger:
    """Ray logs a line for each entry of the path when a walk is ended early."""
    logger = logging.getLogger("raypipe.submit.upload")
    logger.propagate, logger.disabled = False, True
    return logger


def _fullest(sizes: dict[str, int]) -> str:
    counts = Counter(name.split(os.sep)[0] for name in sizes)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(3))


def _refuse_keys(path: Path, name: str) -> None:
    try:
        line = _line_of_key(path)
    except (OSError, ValueError) as fault:  # ValueError: emptied meanwhile
        raise RequestError(
            f"cannot read {name}: {fault}", "name it in .rayignore, or make it readable"
        ) from None
    if line is not None:
        raise RequestError(
            f"{name}, line {line}, looks as if it held a key; nothing was uploaded",
            "name the file in .rayignore, and keep keys in files on the cluster (key_file=PATH)",
        )


def _line_of_key(path: Path) -> int | None:
    """The line of the first key in a file; None where there is none, or a large file is no text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if len(text) > WHOLE_BYTES and b"\0" in text[:PROBED_BYTES]:
            return None
        found = [place for start in _BEGINNINGS if (place := _key_in(text, start)) >= 0]
        return text[: min(found)].count(b"\n") + 1 if found else None


def _key_in(text: mmap.mmap, start: bytes) -> int:
    """Where the first key with this beginning is; -1 where there is none."""
    place = text.find(start)
    while place >= 0 and not _KEYS.match(text, place, place + _LONGEST):
        place = text.find(start, place + 1)
    return place
