"""Where media lie: states without reading, and one medium as a local file, of folders and object stores."""

import http.server
import os
import threading
from pathlib import Path

import fsspec
import pytest

from raypipe.errors import ServiceError
from raypipe.media.decode import DecodeRequest, decode
from raypipe.media.fault import MediumError
from raypipe.media.sandbox import Sandbox
from raypipe.media.source import MISSING, MediaRoot, State
from raypipe.records import Medium, MediumKind, Reason, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling
from tests.support.clips import write_clip, write_image
from tests.support.s3 import addressed_to, free_port, s3_root, s3_server  # noqa: F401 - fixtures

FILES = {"a.png": b"first", "in/b.png": b"second one", "in/deep er/ü[1]*?.png": b"third", "empty": b""}
STRANGE = ["no.png", "in", "no/where.png", "in/no.png", ".", "\ud800", "a.png/x"]
LEADS_OUT = ["../out.png", "in/../../out.png", "/etc/passwd", "http://x/a.png", "file:///a.png", "a\0b"]


@pytest.fixture(params=["folder", "memory", "s3"])
def filled(request, tmp_path) -> tuple[MediaRoot, str]:
    """A root that holds FILES, on each kind of storage."""
    if request.param == "folder":
        address = str(tmp_path / "root")
        (tmp_path / "out.png").write_bytes(b"outside")
    elif request.param == "memory":
        address = f"memory://media-{tmp_path.name}"
    else:
        address = request.getfixturevalue("s3_root")
    for name, data in FILES.items():
        put(address, name, data)
    return MediaRoot(address), request.param


def put(root: str, name: str, data: bytes) -> None:
    if "://" in root:
        fsspec.core.url_to_fs(root)[0].pipe_file(f"{root}/{name}", data)
    else:
        (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(root) / name).write_bytes(data)


def reason(root: MediaRoot, path: str, expected: State | None = None) -> Reason:
    with pytest.raises(MediumError) as raised, root.local_file(path, expected):
        pass
    assert raised.value.detail
    return raised.value.reason


def test_states(filled):
    root, _ = filled
    found = root.states([*FILES, *STRANGE, *LEADS_OUT])
    assert {p: s.size for p, s in found.items() if s != MISSING} == {p: len(d) for p, d in FILES.items()}
    assert all(found[p].stamp for p in FILES)
    put(root.root, "a.png", b"other")
    put(root.root, "new.png", b"new")
    again = root.states(["a.png", "in/b.png", "new.png"])
    assert again["a.png"].stamp != found["a.png"].stamp  # nothing is answered from an old listing
    assert again["in/b.png"] == found["in/b.png"]
    assert again["new.png"].size == 3


def test_a_medium_as_a_local_file(filled):
    root, kind = filled
    states = root.states(FILES)
    for path, data in FILES.items():
        if not data:
            continue
        with root.local_file(path, states[path]) as file:
            assert file.is_file()
            assert file.read_bytes() == data
            assert file.suffix == ".png"
            assert kind == "folder" or file.parent.stat().st_mode & 0o777 == 0o700
        assert file.exists() == (kind == "folder")
        assert file.parent.exists() == (kind == "folder")


def test_what_is_no_medium(filled):
    root, _ = filled
    assert {reason(root, p) for p in LEADS_OUT} == {Reason.MEDIA_OUTSIDE_ROOT}
    assert {reason(root, p) for p in ("no.png", "no/where.png", "in/no.png")} == {Reason.MEDIA_MISSING}
    assert reason(root, "empty") is Reason.MEDIA_EMPTY
    assert reason(root, "in") is Reason.MEDIA_UNREADABLE
    assert reason(root, "\ud800") is Reason.MEDIA_UNREADABLE


def test_a_medium_that_is_not_the_planned_one(filled):
    root, _ = filled
    planned = root.states(["a.png", "in/b.png"])
    put(root.root, "a.png", b"FIRST")
    assert reason(root, "a.png", planned["a.png"]) is Reason.MEDIA_CHANGED
    put(root.root, "in/b.png", b"")
    assert reason(root, "in/b.png", planned["in/b.png"]) is Reason.MEDIA_CHANGED
    with root.local_file("a.png", MISSING) as file:  # no check is asked for
        assert file.read_bytes() == b"FIRST"
    assert reason(root, "no.png", planned["a.png"]) is Reason.MEDIA_MISSING


def test_links_in_a_folder(tmp_path):
    root = tmp_path / "root"
    write_image(root / "real.png")
    write_image(tmp_path / "out" / "o.png")
    (root / "inside").symlink_to(root / "real.png")
    (root / "leads_out").symlink_to(tmp_path / "out" / "o.png")
    (root / "folder").symlink_to(tmp_path / "out")
    (root / "circle").symlink_to(root / "circle")
    (root / "near").symlink_to(tmp_path / "root2")  # a name that begins as the root's
    write_image(tmp_path / "root2" / "x.png")
    os.mkfifo(root / "pipe")
    paths = ["real.png", "inside", "leads_out", "folder/o.png", "circle", "near/x.png", "pipe"]
    found = MediaRoot(str(root)).states(paths)
    assert [p for p in paths if found[p] != MISSING] == ["real.png", "inside"]
    assert found["inside"] == found["real.png"]
    assert MediaRoot(str(root)).states(["../root2/x.png"])["../root2/x.png"] == MISSING


@pytest.mark.parametrize("how", ["other bytes", "appended", "away", "replaced by the same bytes"])
def test_a_file_that_changes_while_it_is_read(tmp_path, how):
    file = write_image(tmp_path / "a.png")
    root = MediaRoot(str(tmp_path))
    data = file.read_bytes()

    def harm(near: Path) -> None:
        if how == "other bytes":
            near.write_bytes(data[::-1])
            os.utime(near, ns=(1, 1))  # surely another time than before
        elif how == "appended":
            near.write_bytes(data + b"x")
        elif how == "away":
            near.unlink()
        else:
            (tmp_path / "new").write_bytes(data)
            os.replace(tmp_path / "new", near)

    planned = root.states(["a.png"])["a.png"]
    with pytest.raises(MediumError) as raised, root.local_file("a.png", planned) as near:
        harm(near)
    assert raised.value.reason is Reason.MEDIA_CHANGED


def test_a_file_that_is_still_being_written_is_changed_not_damaged(tmp_path, monkeypatch):
    """What the decoder says of half a file is not why it is left out."""
    file = write_clip(tmp_path / "a.mp4", 9)
    whole = file.read_bytes()
    file.write_bytes(whole[:400])
    from raypipe.media import decode as module

    real, fired = module._sha256, []

    def grows(path: Path) -> str:
        digest = real(path)
        with open(path, "ab") as more:
            more.write(whole[400:700])
        fired.append(path)
        return digest

    monkeypatch.setattr(module, "_sha256", grows)
    with pytest.raises(MediumError) as raised:
        decode(DecodeRequest("k", MediumKind.VIDEO, str(tmp_path), "a.mp4", Sampling(), Rendition()))
    assert fired
    assert raised.value.reason is Reason.MEDIA_CHANGED


def test_a_root_that_is_gone_is_not_a_thousand_missing_media(tmp_path):
    with pytest.raises(ServiceError, match="not there"), MediaRoot(str(tmp_path / "no")).local_file("a.png"):
        pass
    request = DecodeRequest("k", MediumKind.IMAGE, str(tmp_path / "no"), "a.png", Sampling(), Rendition())
    with Sandbox(DecodeLimits()) as sandbox, pytest.raises(ServiceError) as raised:
        sandbox.decode(request)
    assert raised.value.remedy


def test_many_paths_cost_one_listing_a_folder(s3_root, monkeypatch):  # noqa: F811
    for number in range(6):
        put(s3_root, f"f{number % 2}/{number}.png", b"x" * number)
    root = MediaRoot(s3_root)
    real, asked = root._fs.ls, []
    monkeypatch.setattr(root._fs, "ls", lambda path, **more: asked.append(path) or real(path, **more))
    paths = [f"f{n % 2}/{n}.png" for n in range(6)] + [f"f0/no{n}.png" for n in range(500)] + ["f3/no.png"]
    found = root.states(paths)
    assert len(found) == len(paths)
    assert sum(s != MISSING for s in found.values()) == 6
    assert len(asked) == 3


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("size", [10, 6 << 20])
def test_an_object_that_changes_while_it_is_read(s3_root, monkeypatch, size, planned):  # noqa: F811
    put(s3_root, "a.bin", b"1" * size)
    root, fired = MediaRoot(s3_root), []
    real = root._fs.get_file

    def overwritten(address, file, **more):
        real(address, file, **more)
        put(s3_root, "a.bin", b"2" * size)
        fired.append(address)

    monkeypatch.setattr(root._fs, "get_file", overwritten)
    expected = root.states(["a.bin"])["a.bin"] if planned else None
    assert reason(root, "a.bin", expected) is Reason.MEDIA_CHANGED
    assert fired


def test_an_object_that_goes_away_is_missing(s3_root):  # noqa: F811
    put(s3_root, "a.bin", b"123")
    root = MediaRoot(s3_root)
    planned = root.states(["a.bin"])["a.bin"]
    root._fs.rm_file(f"{s3_root}/a.bin")
    assert reason(root, "a.bin", planned) is Reason.MEDIA_MISSING


def test_a_planned_object_costs_two_requests(s3_root, monkeypatch):  # noqa: F811
    put(s3_root, "a.bin", b"123")
    root = MediaRoot(s3_root)
    planned, real, asked = root.states(["a.bin"])["a.bin"], root._fs._call_s3, []

    async def counted(method, *args, **more):
        asked.append(method)
        return await real(method, *args, **more)

    monkeypatch.setattr(root._fs, "_call_s3", counted)
    with root.local_file("a.bin", planned) as file:
        assert file.read_bytes() == b"123"
    assert asked == ["get_object", "head_object"]


def test_a_download_that_comes_out_short_is_the_storages_fault(s3_root, monkeypatch):  # noqa: F811
    put(s3_root, "a.bin", b"0123456789")
    root, tries = MediaRoot(s3_root), []

    def short(address, file, **more):
        tries.append(file)
        Path(file).write_bytes(b"01234")

    monkeypatch.setattr(root._fs, "get_file", short)
    with pytest.raises(ServiceError, match="5 of the 10 bytes"), root.local_file("a.bin"):
        pass
    assert len(tries) == 3
    assert not Path(tries[0]).parent.exists()


def test_a_bucket_that_is_not_there(s3_root):  # noqa: F811
    root = MediaRoot("s3://no-such-bucket-of-ours/prefix")
    with pytest.raises(ServiceError, match="no bucket"):
        root.states(["a.png"])
    with pytest.raises(ServiceError, match="no bucket"), root.local_file("a.png"):
        pass


class _Refusing(http.server.BaseHTTPRequestHandler):
    status, asked = 500, 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("fault", ["503", "403", "no network", "no credentials"])
def test_a_storage_that_fails_raises(fault, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    handler = type("Handler", (_Refusing,), {"status": int(fault) if fault.isdigit() else 500})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = free_port() if fault == "no network" else server.server_port
    with addressed_to(f"http://127.0.0.1:{port}"):
        if fault == "no credentials":
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.delenv(name)
        root = MediaRoot("s3://bucket/prefix")
        with pytest.raises(ServiceError) as listed:
            root.states(["a.png"])
        with pytest.raises(ServiceError) as read, root.local_file("a.png"):
            pass
        assert listed.value.remedy
        assert read.value.remedy
        if fault in ("403", "no credentials"):
            assert "credentials" in read.value.remedy
    server.shutdown()
    server.server_close()
    assert handler.asked or not fault.isdigit()


def test_media_of_a_bucket_through_the_sandbox(s3_root, tmp_path, monkeypatch):  # noqa: F811
    """In order, the same rows as from a folder; fetched ahead; the child sees no credentials."""
    names = [f"i{n}.png" for n in range(6)] + ["no.png", "clip.mp4", "bad.mp4"]
    for n in range(6):
        write_image(tmp_path / f"i{n}.png", n)
    write_clip(tmp_path / "clip.mp4", 9)
    (tmp_path / "bad.mp4").write_bytes(b"nothing" * 99)
    for file in tmp_path.iterdir():
        put(s3_root, file.name, file.read_bytes())
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    states = MediaRoot(s3_root).states(names)

    def requests(root: str) -> list[DecodeRequest]:
        sizes = {n: (s.size, s.stamp) if "://" in root else (-1, "") for n, s in states.items()}
        kinds = {n: MediumKind.VIDEO if n.endswith(".mp4") else MediumKind.IMAGE for n in names}
        return [
            DecodeRequest(n, kinds[n], root, n, Sampling(), Rendition(), size=sizes[n][0], stamp=sizes[n][1])
            for n in names
        ]

    with Sandbox(DecodeLimits()) as sandbox:
        remote, here = (
            list(sandbox.decode_all(requests(s3_root))),
            list(sandbox.decode_all(requests(str(tmp_path)))),
        )
        environment = Path(f"/proc/{sandbox._child.pid}/environ").read_bytes()
        assert [type(r) for r in remote] == [Medium] * 6 + [Rejection, Medium, Rejection]
        assert [r.reason for r in remote if isinstance(r, Rejection)] == [
            Reason.MEDIA_MISSING,
            Reason.MEDIA_UNREADABLE,
        ]
        assert [r for r in remote if isinstance(r, Medium)] == [r for r in here if isinstance(r, Medium)]
        assert [(r.id, r.path) for r in remote if isinstance(r, Rejection)] == [
            ("no.png",) * 2,
            ("bad.mp4",) * 2,
        ]
        assert not any(str(temporary) in r.detail for r in remote if isinstance(r, Rejection))
        assert b"AWS_" not in environment
        assert list(temporary.iterdir()) == []
        half = sandbox.decode_all(requests(s3_root))
        assert next(half).key == "i0.png"
        assert len(list(temporary.iterdir())) > 1  # others were fetched while the first was decoded
        half.close()
        assert list(temporary.iterdir()) == []
