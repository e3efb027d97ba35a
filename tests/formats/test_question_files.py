import pytest

from raypipe.errors import RequestError
from raypipe.formats.question_files import Truth, read_asked
from tests.support.eval_roots import write_lines

SUFFIX = "\nIn one word."


def _truth(tmp_path, *entries):
    truth: Truth[str] = Truth(tmp_path / "truth.json", "take the other file")
    for number, (key, value) in enumerate(entries, 1):
        truth.add(key, value, f"line {number}")
    return truth


def test_an_entry_is_taken_once(tmp_path):
    truth = _truth(tmp_path, ("1", "yes"), ("2", "no"), ("1", "yes"))
    assert (truth.take("1", "q, line 1"), truth.take("2", "q, line 2")) == ("yes", "no")
    truth.expect_all_taken(tmp_path / "q.jsonl")
    with pytest.raises(RequestError, match="q, line 3: '1' is asked a second time"):
        truth.take("1", "q, line 3")


def test_two_entries_that_differ_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"truth\.json, line 2: another entry for '1' came before"):
        _truth(tmp_path, ("1", "yes"), ("1", "no"))


def test_what_only_one_of_the_files_holds_is_refused_with_the_remedy(tmp_path):
    truth = _truth(tmp_path, (("a.jpg", "Is it?"), "yes"), (("b.jpg", "Is it?"), "no"))
    with pytest.raises(RequestError, match=r"q, line 1: 'Why\?' on 'a\.jpg' is not in truth\.json") as fault:
        truth.take(("a.jpg", "Why?"), "q, line 1")
    assert fault.value.remedy == "take the other file"
    truth.take(("a.jpg", "Is it?"), "q, line 1")
    with pytest.raises(RequestError, match=r"holds 1 questions that q\.jsonl .* 'Is it\?' on 'b\.jpg'"):
        truth.expect_all_taken(tmp_path / "q.jsonl")


def test_a_long_key_is_cut_in_the_message(tmp_path):
    with pytest.raises(RequestError) as fault:
        _truth(tmp_path).take("x" * 10_000, "q, line 1")
    assert len(fault.value.message) < 300


def test_rows_are_read_in_order_and_become_questions(tmp_path):
    path = tmp_path / "q.jsonl"
    write_lines(path, [{"question_id": n, "image": f"{n}.jpg", "text": f"Why?{SUFFIX}"} for n in (2, 1)])
    first, second = read_asked(path, "some/images", SUFFIX)
    assert (first.where, first.row_id, first.image, first.bare) == ("line 1", "2", "2.jpg", "Why?")
    question = second.question("some", "because", "why", tags=("a=b",))
    assert (question.medium.path, question.prompt) == ("some/images/1.jpg", f"Why?{SUFFIX}")
    assert (question.row_id, question.reference, question.tags) == ("1", "because", ("a=b",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "../a.jpg"}, r"line 1: medium '\.\./a\.jpg' is not a name inside some/images"),
        ({"text": "Why?"}, "line 1: the text does not end in 'In one word.'"),
        ({"question_id": None}, "line 1: field 'question_id' is not text"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, row, message):
    path = tmp_path / "q.jsonl"
    write_lines(path, [{"question_id": 1, "image": "a.jpg", "text": f"Why?{SUFFIX}", **row}])
    with pytest.raises(RequestError, match=message):
        list(read_asked(path, "some/images", SUFFIX))
