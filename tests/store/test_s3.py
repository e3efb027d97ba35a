"""The store over HTTP against a real S3 server: the same promises as on local disk."""

from raypipe.store.files import Store


def test_there_and_back(s3_root):
    store = Store(s3_root)
    assert store.put_new("media/a", b"first")
    assert not store.put_new("media/a", b"second")
    assert store.read("media/a") == b"first"
    assert store.list() == ["media/a"]
