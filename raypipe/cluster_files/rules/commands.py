"""What shells on the nodes are told to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from raypipe.cluster_files.findings import Rule, Severity
from raypipe.cluster_files.view import Hit, View
from raypipe.redaction import redact


def _matches(pattern: str) -> Callable[[View], Iterator[Hit]]:
    shape = re.compile(pattern, re.IGNORECASE)

    def look(view: View) -> Iterator[Hit]:
        for text in view.commands():
            found = shape.search(text.text)
            if found:
                yield text.hit(redact(" ".join(found[0].split()))[:80])  # half a key has no shape

    return look


FETCH = re.compile(r"\b(?:curl|wget)\b")
OWN_HOST = r"127\.|localhost\b|\[::1\]|169\.254\.|metadata\.google\.internal"  # nobody between
KEPT_AS = re.compile(r"\s(?:-[a-zA-Z]*[oO]\s*|--output[= ]\s*|--output-document[= ]\s*)([^\s-][^\s]*)")
OF_ADDRESS = re.compile(r"https?://[^\s\"']*/([^\s\"'/?#]+)")
PROVEN = re.compile(r"\b(?:sha\d*sum|shasum|b2sum|gpg2?|gpgv|cosign|minisign|openssl)\b")
STEP = re.compile(r"&&|\|\||;|\n")


def _fetched_and_run(view: View) -> Iterator[Hit]:
    """A file that one command fetches and the same or a later one runs, with no check of it between."""
    fetched: set[str] = set()
    run = re.compile(rf"(?:^|\s)(?:(?:{SHELL}|source|\.)\s+(?:-\S+\s+)*|(?=\.?/|~/))([^\s\"']+)")
    for text in view.commands():
        for step in STEP.split(text.text):
            if PROVEN.search(step):
                fetched.clear()
            elif FETCH.search(step):
                names = [*KEPT_AS.findall(step), *OF_ADDRESS.findall(step)]
                fetched |= {name.strip("\"'").rpartition("/")[2] for name in names}
            elif any(name.rpartition("/")[2] in fetched for name in run.findall(step)):
                yield text.hit(" ".join(step.split())[:80] + ": fetched before, and not checked")


def _piped_or_run(view: View) -> Iterator[Hit]:
    yield from _piped(view)
    yield from _fetched_and_run(view)


SHELL = r"(?:sudo\s+(?:-\S+\s+)*)?(?:env\s+(?:\S+=\S*\s+)*)?(?:/\S*/)?(?:(?:ba|z|da|k)?sh|python[\d.]*)\b"
_piped = _matches(
    rf"(?:curl|wget)\b[^;&|\n]*\|\s*(?:{SHELL})|(?:ba|z)?sh\s+<\(\s*(?:curl|wget)"
    r"|(?:sh\s+-c|eval)\s+[\"']?(?:\$\(|`)\s*(?:curl|wget)"
)

RULES = (
    Rule(
        "pipe-to-shell",
        Severity.FAIL,
        "a page of the web is run as it comes",
        "a package with a pinned version instead; or fetch, check the hash, then run",
        _piped_or_run,
    ),
    Rule(
        "open-to-all-users",
        Severity.FAIL,
        "files that every user may write",
        "chown to the user that needs them, and chmod 700 or 600",
        _matches(r"chmod\s+(?:-\S+\s+)*(?:0?[0-7][0-7][2367]|[ao]*[ao]\+\w*w\w*)\s+\S+"),
    ),
    Rule(
        "unverified-download",
        Severity.FAIL,
        "a download from anyone who answers",
        "https with certificates checked; a private registry's certificate goes into the image",
        _matches(
            r"curl\b[^;&|\n]*\s(?:-\w*k\w*\b|--insecure)|wget\b[^;&|\n]*--no-check-certificate|--trusted-host"
            r"|--(?:extra-)?index-url[= ]http://|-i\s+http://|http\.sslVerify[= ]false|GIT_SSL_NO_VERIFY="
            rf"|(?:curl|wget)\b[^;&|\n]*[\s\"']http://(?!{OWN_HOST})"
            r"|PYTHONHTTPSVERIFY=0|--allow-unauthenticated|NODE_TLS_REJECT_UNAUTHORIZED=0"
        ),
    ),
    Rule(
        "tunnel-out",
        Severity.FAIL,
        "a tunnel brings strangers in past every firewall",
        "ray dashboard FILE, or ssh -L from your own machine",
        _matches(
            r"(?:^|[\s;&|/])(?:ngrok|cloudflared|localtunnel|frpc|bore)\s+\w|\bssh\s[^;&|\n]*-\w*R\s*\S*:\S+"
        ),
    ),
    Rule(
        "firewall-off",
        Severity.FAIL,
        "the machine's firewall is turned off",
        "let in SSH, and the cluster's own machines",
        _matches(
            r"ufw\s+(?:--force\s+)?disable|iptables\s+(?:-F|--flush|-P\s+INPUT\s+ACCEPT)|nft\s+flush\s+ruleset|setenforce\s+0"
            r"|systemctl\s+(?:\S+\s+)?(?:stop|disable|mask)\s+(?:--now\s+)?(?:firewalld|ufw|nftables|apparmor)"
        ),
    ),
)
