"""A tokenizer made from a sentencepiece file against sentencepiece itself."""

import json
import random
import shutil
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer

from raypipe.errors import RequestError
from raypipe.model.build import from_parts, load_model, save_model
from raypipe.model.llama_tokenizer import folder_tokenizer, llama_tokenizer
from raypipe.records import Turn
from tests.model.answers import VIDEO, parts_of

WORDS = "what happens in the video clip USER: ASSISTANT: 2024 über naïve 漢字 😀 don't \t x"


def strings() -> list[str]:
    rng = random.Random(3)
    words = WORDS.split(" ")
    letters = "abcdehinotv  0123.,?\n\t▁漢ü"
    made = [" ".join(rng.choice(words) for _ in range(rng.randint(1, 12))) for _ in range(600)]
    made += ["".join(rng.choice(letters) for _ in range(rng.randint(0, 40))) for _ in range(600)]
    return [*made, "", " ", "  ", "\n", "▁", " a", "a ", "  a  b  ", "<image>", "<0x0A>", "a\x00b"]


def test_ids_are_those_of_sentencepiece(originals):
    file = Path(originals.llm, "tokenizer.model")
    theirs, mine = sentencepiece.SentencePieceProcessor(model_file=str(file)), llama_tokenizer(file)
    assert mine.get_vocab_size() == theirs.vocab_size()
    for text in strings():
        ids = theirs.encode(text)
        assert mine.encode(text, add_special_tokens=False).ids == ids, text
        assert mine.decode(ids) == theirs.decode(ids), text
    pieces = ["USER: what", " happens", "in the clip"]  # legacy mode: each piece for itself
    joined = [theirs.encode(pieces[0]), [2], theirs.encode(pieces[1]), [1], theirs.encode(pieces[2])]
    ids = mine.encode(f"{pieces[0]}</s>{pieces[1]}<s>{pieces[2]}", add_special_tokens=False).ids
    assert ids == [i for part in joined for i in part]


def test_a_conversation_is_masked_by_answer(originals):
    loaded = load_model(originals.whole)
    encoded = loaded.chat().training([Turn("human", "<video>\nwhat moves"), Turn("gpt", "a bar")], (VIDEO,))
    learned = [i for i, label in zip(encoded.ids, encoded.labels, strict=True) if label != -100]
    assert loaded.tokenizer.decode(learned, skip_special_tokens=False).strip() == "a bar</s>"


def test_the_tokenizer_goes_along_with_an_export(originals, tmp_path):
    loaded = load_model(originals.whole)
    save_model(loaded, loaded.card, tmp_path)
    assert (tmp_path / "tokenizer.model").exists()
    again, theirs = load_model(str(tmp_path)).tokenizer, AutoTokenizer.from_pretrained(tmp_path)
    for text in strings()[::20]:
        ids = loaded.tokenizer.encode(text, add_special_tokens=False).ids
        assert again.encode(text, add_special_tokens=False).ids == ids
        assert theirs.encode(text, add_special_tokens=False) == ids


def test_added_tokens_have_the_ids_their_file_says(originals, tmp_path):
    folder = Path(shutil.copytree(originals.llm, tmp_path / "llm"))
    rows = llama_tokenizer(folder / "tokenizer.model").get_vocab_size()
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": rows}))
    assert folder_tokenizer(folder).encode("a<pad>", add_special_tokens=False).ids[-1] == rows
    with pytest.raises(RequestError, match=rf"the tokenizer has {rows + 1} ids, the model {rows}"):
        from_parts(parts_of(originals, language_model=str(folder)), 0)
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": rows + 5}))
    with pytest.raises(RequestError, match="cannot have the id"):
        folder_tokenizer(folder)


def test_other_sentencepiece_files_are_refused(originals, tmp_path):
    (tmp_path / "t.txt").write_text("a b c d e f\n" * 50)
    for name, more, said in (
        ("unigram", {"model_type": "unigram"}, "not a byte-pair model"),
        ("folded", {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"}, "normaliser lacks"),
    ):
        sentencepiece.SentencePieceTrainer.train(
            input=str(tmp_path / "t.txt"),
            model_prefix=str(tmp_path / name),
            vocab_size=20,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=3,
            **more,
        )
        with pytest.raises(RequestError, match=said):
            llama_tokenizer(tmp_path / f"{name}.model")
    data = Path(originals.llm, "tokenizer.model").read_bytes()
    for body in (b"", b"hello", data[: len(data) // 2 + 1], data[:-1], b"\x0a\xff\xff\xff\xff\x0f"):
        (tmp_path / "bad.model").write_bytes(body)
        with pytest.raises(RequestError, match=r"bad\.model is no sentencepiece file"):
            llama_tokenizer(tmp_path / "bad.model")
