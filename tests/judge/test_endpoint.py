"""Where the key comes from and where it never goes; addresses; how long to wait."""

import email.utils
import time
from pathlib import Path

import pydantic
import pytest

from raypipe.errors import RequestError
from raypipe.judge.endpoint import NO_KEY, base_url_of, find_key, host_of, is_loopback, retry_after_s
from raypipe.settings import EvaluateSettings, JudgeSettings, load

CANARY = "sk-canary-0123456789"


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> JudgeSettings:
    monkeypatch.delenv("MY_KEY", raising=False)
    return JudgeSettings(base_url="https://judge.example/v1", key_env="MY_KEY")


def test_the_key_file_wins_over_the_environment(
    remote: JudgeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    assert find_key(remote) == CANARY
    (tmp_path / "key").write_text("sk-from-file\n")
    assert find_key(remote.model_copy(update={"key_file": str(tmp_path / "key")})) == "sk-from-file"


def test_a_missing_key_says_which_variable_and_which_setting(remote: JudgeSettings) -> None:
    with pytest.raises(RequestError) as fault:
        find_key(remote)
    assert "$MY_KEY" in fault.value.message
    assert "key_file" in fault.value.remedy


def test_a_missing_key_file_says_which(remote: JudgeSettings, tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    with pytest.raises(RequestError, match=str(path)):
        find_key(remote.model_copy(update={"key_file": str(path)}))


def test_an_endpoint_on_this_machine_needs_no_key(
    remote: JudgeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = remote.model_copy(update={"base_url": "http://127.0.0.1:8000/v1"})
    assert find_key(here) == NO_KEY
    monkeypatch.setenv("MY_KEY", CANARY)
    assert find_key(here) == CANARY


@pytest.mark.parametrize(
    "bad", ["", "  \n", f"{CANARY} two", f"{CANARY}\nmore", f"{CANARY}\u2019", f"{CANARY}\x01"]
)
def test_what_is_no_key_is_refused_without_showing_it(
    remote: JudgeSettings, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", bad)
    with pytest.raises(RequestError) as fault:
        find_key(remote)
    assert CANARY not in repr(fault.value) + fault.value.render()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:80/v1", True),
        ("http://10.0.0.1/v1", False),
        ("http://127.0.0.1.example.com/v1", False),
        ("http://localhost@example.com/v1", False),
        ("https://api.openai.com/v1", False),
    ],
)
def test_loopback(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


@pytest.mark.parametrize("url", ["judge", "ftp://a/b", "http://", "http://a:b/v1", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match="base_url"):
        base_url_of(JudgeSettings(base_url=url))


def test_messages_name_the_host_without_credentials() -> None:
    old = JudgeSettings.model_construct(base_url=f"https://me:{CANARY}@judge.example:8443/v1")
    assert host_of(old) == "judge.example:8443"
    assert host_of(JudgeSettings()) == "api.openai.com"


@pytest.mark.parametrize(
    "given",
    [
        f"key={CANARY}",
        f"api_key={CANARY}",
        f"token={CANARY}",
        f"key_env={CANARY}",
        f"base_url=https://me:{CANARY}@judge.example/v1",
        f"base_url=https://judge.example/v1?key={CANARY}",
    ],
)
def test_a_key_given_as_a_setting_is_refused_without_showing_it(given: str) -> None:
    for kind, more in ((JudgeSettings, []), (EvaluateSettings, ["model=m", "eval_root=r", "out=o"])):
        name = given if kind is JudgeSettings else f"judge.{given}"
        with pytest.raises(RequestError) as fault:
            load(kind, None, [*more, name])
        assert fault.value.exit_code == 2
        assert "key" in fault.value.message
        assert CANARY not in repr(fault.value) + fault.value.render()
    with pytest.raises(pydantic.ValidationError) as raw:
        JudgeSettings(**dict([given.split("=", 1)]))
    assert CANARY not in str(raw.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", None), ("soon", None), ("nan", None), ("0", 0.0), ("1.5", 1.5), ("-3", 0.0), ("600", 600.0)],
)
def test_retry_after_in_seconds(value: str, expected: float | None) -> None:
    assert retry_after_s({"retry-after": value}) == expected


def test_retry_after_in_milliseconds_is_the_exact_one() -> None:
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    assert retry_after_s({"retry-after-ms": "soon", "retry-after": "1"}) == 1.0


def test_retry_after_as_a_date() -> None:
    assert retry_after_s({}) is None
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after_s({"retry-after": later}) == pytest.approx(30, abs=2)
    assert retry_after_s({"retry-after": email.utils.formatdate(0, usegmt=True)}) == 0.0
