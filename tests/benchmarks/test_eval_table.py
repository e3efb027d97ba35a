import pytest

from raypipe import eval_table
from raypipe.errors import RequestError
from raypipe.eval_table import read_table, read_text_lines


def _rows(path, content, needed=("a",)):
    path.write_bytes(content)
    return list(read_table(path, needed))


def test_quotes_breaks_and_blank_lines(tmp_path):
    content = b'a\tb\n1\t"x\ty ""z""\nnext"\n\n2\tplain "quotes" stay\n'
    assert _rows(tmp_path / "t.tsv", content) == [
        (2, {"a": "1", "b": 'x\ty "z"\nnext'}),
        (5, {"a": "2", "b": 'plain "quotes" stay'}),
    ]


def test_crlf_and_a_byte_order_mark(tmp_path):
    content = b'\xef\xbb\xbfa\tb\r\n1\t"x\r\ny"\r\n2\t\r\n'
    assert _rows(tmp_path / "t.tsv", content) == [(2, {"a": "1", "b": "x\r\ny"}), (4, {"a": "2", "b": ""})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the file is empty"),
        (b"b\n1\n", "line 1: the heading lacks a"),
        (b"\na\n1\n", "line 1: the heading lacks a"),
        (b"a\ta\n1\t2\n", "line 1: the heading names a column twice"),
        (b"a\tb\n1\t2\n3\n", "line 3: 1 cells where the heading has 2"),
        (b"a\tb\n1\t2\t3\n", "line 2: 3 cells where"),
        (b'a\tb\n1\t2\n3\t"four\n5\t6\n', "line 3: unexpected end of data"),
        (b'a\tb\n1\t"x"y\n', "line 2: "),
        (b"a\tb\n1\t\xff\n", "line 2: not UTF-8 text"),
    ],
)
def test_damage_is_named_with_the_line_it_begins_at(tmp_path, content, message):
    with pytest.raises(RequestError, match=message) as fault:
        _rows(tmp_path / "t.tsv", content)
    assert str(tmp_path / "t.tsv") in fault.value.message


def test_giant_lines_and_cells_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(eval_table, "MAX_LINE", 1000)
    with pytest.raises(RequestError, match="line 2: longer than"):
        _rows(tmp_path / "t.tsv", b"a\n" + b"x" * 1001 + b"\n")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        list(read_text_lines(tmp_path / "none.txt"))
    with pytest.raises(RequestError, match="cannot read"):
        list(read_text_lines(tmp_path))
