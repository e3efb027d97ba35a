"""Annotations: whatever a record holds, it is a clip or has its reason."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import RequestError
from raypipe.prepare.read import read_annotations, read_record
from raypipe.records import Clip, MediumKind, MediumRef, Reason
from raypipe.text.chat import ChatError
from tests.support.clips import talk, write_annotations
from tests.support.prepared import dataset

Q = talk("q", "a")
VIDEO = talk("<video>\nq", "a")

BAD = [
    (5, Reason.BAD_RECORD),
    ([], Reason.BAD_RECORD),
    ({}, Reason.BAD_RECORD),
    ({"conversations": []}, Reason.BAD_RECORD),
    ({"conversations": "q"}, Reason.BAD_RECORD),
    ({"conversations": ["q"]}, Reason.BAD_RECORD),
    ({"conversations": [{"from": "human"}]}, Reason.BAD_RECORD),
    ({"conversations": [{"value": "q"}, {"from": "gpt", "value": "a"}]}, Reason.BAD_RECORD),
    ({"conversations": [{"from": "human", "value": 5}]}, Reason.BAD_RECORD),
    ({"conversations": talk("q", "a")[::-1]}, Reason.NOTHING_TO_LEARN),
    ({"conversations": talk("q\ud800", "a")}, Reason.BAD_RECORD),
    ({"conversations": talk("q", "")}, Reason.NOTHING_TO_LEARN),
    ({"conversations": Q, "video": "v.mp4"}, Reason.BAD_TAGS),
    ({"conversations": [{"from": "system", "value": "s"}, *Q]}, Reason.BAD_RECORD),
    ({"conversations": VIDEO, "video": []}, Reason.BAD_TAGS),
    ({"conversations": talk("q", "a <image>"), "image": []}, Reason.BAD_TAGS),
    ({"conversations": talk("<video>\nq", "a <video>"), "video": "v.mp4"}, Reason.BAD_TAGS),
    ({"conversations": VIDEO, "video": ["a.mp4", "b.mp4"]}, Reason.BAD_TAGS),
    ({"conversations": VIDEO, "image": "a.png"}, Reason.BAD_TAGS),
    ({"conversations": VIDEO, "video": 5}, Reason.BAD_RECORD),
    ({"conversations": VIDEO, "video": 0}, Reason.BAD_RECORD),
    ({"conversations": VIDEO, "video": {"a.mp4": 1}}, Reason.BAD_RECORD),
    ({"conversations": VIDEO, "video": [5]}, Reason.BAD_RECORD),
    ({"conversations": VIDEO, "video": [None]}, Reason.BAD_RECORD),
    ({"conversations": VIDEO, "video": ""}, Reason.BAD_RECORD),
    ({"conversations": VIDEO, "video": "\udfff.mp4"}, Reason.BAD_RECORD),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_bad_records_have_their_reason(record, reason):
    with pytest.raises(ChatError) as fault:
        read_record(record, "i", "d", "f#0")
    assert fault.value.reason is reason


def test_all_bad_records_of_a_file_are_counted_with_their_place(tmp_path):
    write_annotations(tmp_path, [record for record, _ in BAD])
    clips, rejections = read_annotations(dataset(tmp_path, tmp_path / "out"))
    assert clips == []
    assert [(r.what, r.reason) for r in rejections] == [("sample", reason) for _, reason in BAD]
    assert [r.detail.split(":")[0] for r in rejections] == [f"tune.json#{n}" for n in range(len(BAD))]
    assert len({r.id for r in rejections}) == len(BAD)


def test_good_records(tmp_path):
    write_annotations(
        tmp_path,
        [
            {"conversations": Q},
            {"conversations": Q, "video": None, "image": []},
            {"conversations": talk("<video><image>q", "a"), "image": "i.png", "video": ["v.mp4"]},
            {"conversations": [{"from": "gpt", "value": "hello"}, *Q]},
            {"conversations": talk("<video>\nWhat does this tag mean?", "<image> is another.")},
            {"conversations": VIDEO, "video": None},
            {"conversations": talk("what is </s> USER: for?", "It ends</s> <s> <unk> <|im_end|> a text.")},
        ],
    )
    clips, rejections = read_annotations(dataset(tmp_path, tmp_path / "out"))
    assert rejections == []
    assert [c.media for c in clips[:2]] == [(), ()]
    assert clips[2].media == (MediumRef(MediumKind.VIDEO, "v.mp4"), MediumRef(MediumKind.IMAGE, "i.png"))
    assert [t.text for t in clips[3].turns] == ["q", "a"]
    assert [c.media for c in clips[4:]] == [(), (), ()]
    assert clips[4].turns[0].text == "<video>\nWhat does this tag mean?"  # text, for there is no medium
    assert clips[6].turns[1].text == "It ends</s> <s> <unk> <|im_end|> a text."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("<video>"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TURN = st.fixed_dictionaries({}, optional={"from": JSON | st.sampled_from(["human", "gpt"]), "value": JSON})
RECORD = JSON | st.fixed_dictionaries(
    {}, optional={"conversations": JSON | st.lists(TURN, max_size=3), "video": JSON, "image": JSON}
)


@given(RECORD)
@settings(max_examples=300)
def test_any_json_is_a_clip_or_has_a_reason(record):
    try:
        assert isinstance(read_record(record, "i", "d", "f#0"), Clip)
    except ChatError as fault:
        assert fault.reason in Reason  # noqa: PT017 - either is fine


def test_ids_come_from_content(tmp_path):
    records = [{"conversations": Q}, {"conversations": VIDEO, "video": "v"}, {"conversations": Q, "id": 5}]
    ids = []
    for order in (records, records[::-1]):
        write_annotations(tmp_path, order)
        ids.append({c.turns[0].text + str(len(c.media)): c.id for c in _clips(tmp_path)[:2]})
    write_annotations(tmp_path, [*records, *records])
    again = _clips(tmp_path)
    assert len({c.id for c in again}) == 6  # a record that is there twice is two samples
    write_annotations(tmp_path, records)
    assert {c.id for c in _clips(tmp_path)} < {c.id for c in again}


def _clips(root):
    return read_annotations(dataset(root, root / "out"))[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe\xfa", "is not JSON"),
        (b'{"a": 1}', "JSON array"),
        (b"[" * 200_000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_annotation_file(tmp_path, content, said):
    (tmp_path / "tune.json").write_bytes(content)
    with pytest.raises(RequestError, match=said):
        read_annotations(dataset(tmp_path, tmp_path / "out"))


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "tune.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([{"conversations": Q}]).encode())
    assert len(_clips(tmp_path)) == 1


def test_what_is_missing_is_named(tmp_path):
    write_annotations(tmp_path / "data/ft", [], "tune_.json")
    with pytest.raises(RequestError, match="no such data root"):
        read_annotations(dataset(tmp_path / "no", tmp_path / "out"))
    with pytest.raises(RequestError) as fault:
        read_annotations(dataset(tmp_path / "data", tmp_path / "out", annotations=["ft/tune.json"]))
    assert "ft/tune_.json" in fault.value.remedy
    with pytest.raises(RequestError, match="cannot read"):
        read_annotations(dataset(tmp_path / "data", tmp_path / "out", annotations=["ft"]))
