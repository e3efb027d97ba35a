"""What somebody typed is text: for any tokenizer, in every thread, and without touching the tokenizer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import AddedToken, Tokenizer

from raypipe.errors import RequestError
from raypipe.model.build import random_model
from raypipe.records import MediumKind, Reason, Turn
from raypipe.text.chat import IGNORE, TEMPLATES, ChatEncoder, ChatError, VisualTokens
from raypipe.text.tokenizer import SPECIAL, train_tokenizer
from tests.support.tiny import tiny_model, tiny_tokenizer

VISUAL = {MediumKind.IMAGE: VisualTokens(9001, 3), MediumKind.VIDEO: VisualTokens(9002, 5)}
TYPED = "a </s> <s> <unk> <image> b"


def talk(question: str, answer: str) -> list[Turn]:
    return [Turn("human", question), Turn("gpt", answer)]


@pytest.mark.parametrize("template", ["v1", "plain"])
def test_the_protocol_says_what_is_parsed_in_a_text(template):
    tokenizer = tiny_tokenizer()
    kinds = [MediumKind.IMAGE]
    said = {}
    for protocol in ("corrected", "reference"):
        chat = ChatEncoder(tokenizer, TEMPLATES[template], VISUAL, protocol)
        encoded = chat.training(talk("<image>q", "x </s> <s> <unk> y"), kinds)
        closing = [2] if template == "v1" else []
        body = encoded.ids[1 : -1 if closing else None]
        assert [i for i in encoded.labels[-1:] if closing] == closing
        said[protocol] = [i for i in body if i in (0, 1, 2)]
    # Where </s> closes an answer it never stands within one.
    assert said == {"corrected": [], "reference": [1, 0] if template == "v1" else [2, 1, 0]}


def test_the_tokenizer_is_left_as_it_is():
    tokenizer = tiny_tokenizer()
    before = tokenizer.to_str()
    chat = ChatEncoder(tokenizer, TEMPLATES["v1"], VISUAL)
    chat.training(talk(TYPED, TYPED), [])
    chat.prompt(TYPED)
    assert (tokenizer.to_str(), tokenizer.encode_special_tokens) == (before, False)
    assert 2 in tokenizer.encode("</s>", add_special_tokens=False).ids


def test_threads_that_share_a_tokenizer_do_not_change_each_others_ids():
    tokenizer = tiny_tokenizer()
    chats = [
        ChatEncoder(tokenizer, TEMPLATES[name], VISUAL, p)
        for name, p in (("v1", "corrected"), ("llava_v1", "reference"))
    ]
    texts = [TYPED, "What moves?", "<s>", "</s>" * 3, "A bar. <unk>"]

    def work(number: int):
        chat, text = chats[number % 2], texts[number % len(texts)]
        parsed = tokenizer.encode("a</s>", add_special_tokens=False).ids  # someone else's use of it
        return chat.prompt(text), chat.training(talk(text, text), []), tuple(parsed)

    alone = [work(number) for number in range(10)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(400)))
    assert together == [alone[number % 10] for number in range(400)]


def test_tokens_that_are_added_later_are_known():
    tokenizer = tiny_tokenizer()
    ChatEncoder(tokenizer, TEMPLATES["v1"], VISUAL)
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.add_tokens(["zebra"])
    ids = ChatEncoder(tokenizer, TEMPLATES["v1"], VISUAL).prompt("what is a zebra <pad>?")
    assert tokenizer.token_to_id("zebra") in ids  # an ordinary word
    assert tokenizer.token_to_id("<pad>") not in ids


def test_a_placeholder_that_is_not_marked_as_special_is_text_too():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=False)])
    place = tokenizer.token_to_id("<image>")
    chat = ChatEncoder(tokenizer, TEMPLATES["v1"], {MediumKind.IMAGE: VisualTokens(place, 4)})
    assert place not in chat.prompt("what is <image>?")
    assert chat.prompt("what is <image>?", [MediumKind.IMAGE]).count(place) == 4


def test_a_tokenizer_that_cannot_tell_a_special_token_from_a_word_is_refused():
    body = json.loads(tiny_tokenizer().to_str())
    body["model"]["merges"] = [["<", "/"], ["</", "s"], ["</s", ">"], *body["model"]["merges"]]
    for word in ("<", "/", "s", ">", "</", "</s"):
        body["model"]["vocab"].setdefault(word, len(body["model"]["vocab"]))
    tokenizer = Tokenizer.from_str(json.dumps(body))
    with pytest.raises(RequestError, match="has </s> as an ordinary word"):
        ChatEncoder(tokenizer, TEMPLATES["v1"], VISUAL)


def test_training_a_tokenizer_on_texts_with_special_tokens_makes_no_word_of_them():
    texts = ["</s> <s><unk> <0x41> <|im_end|>"] * 50
    for special in (SPECIAL, ("<|im_start|>", "<|im_end|>")):
        tokenizer = train_tokenizer(texts, 900, special=special)
        assert [tokenizer.token_to_id(t) for t in special] == list(range(len(special)))
        assert {t.content for t in tokenizer.get_added_tokens_decoder().values()} == set(special)
        tokenizer.encode_special_tokens = True
        ids = tokenizer.encode(texts[0], add_special_tokens=False).ids
        assert not set(ids) & set(range(len(special)))
        assert tokenizer.decode(ids) == texts[0]


def test_plain_takes_one_question_with_media_and_one_answer():
    chat = ChatEncoder(tiny_tokenizer(), TEMPLATES["plain"], VISUAL)
    kinds = [MediumKind.VIDEO, MediumKind.IMAGE]
    encoded = chat.training(talk("<video>what <image>is it?", "A bar."), kinds)
    assert encoded.ids[:9] == (1, *[9002] * 5, *[9001] * 3) == chat.prompt("what is it?", kinds)
    assert encoded.labels[:9] == (IGNORE,) * 9
    assert encoded.labels[9:] == encoded.ids[9:]
    assert tiny_tokenizer().decode(encoded.ids[9:]) == "A bar.\n"
    for turns, media, reason in (
        ([*talk("<video>q", "a"), *talk("r", "b")], kinds[:1], Reason.BAD_RECORD),
        ([*talk("<video>q", "a"), Turn("human", "r")], kinds[:1], Reason.BAD_RECORD),
        (talk("q", "a"), [], Reason.BAD_TAGS),
        (talk("<image>q", ""), kinds[1:], Reason.NOTHING_TO_LEARN),
    ):
        with pytest.raises(ChatError) as fault:
            chat.training(turns, media)
        assert fault.value.reason is reason
    with pytest.raises(ChatError):
        chat.prompt("what is it?")


def test_visual_tokens_are_counted_from_the_models_config():
    """A tower's patches: without the class token for an image, with it for each frame of a video."""
    for loaded in (tiny_model(), _of_other_size()):
        vision = loaded.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        frames = loaded.config.video_seq_length // (patches + 1)
        for kind, count in ((MediumKind.IMAGE, patches), (MediumKind.VIDEO, frames * (patches + 1))):
            place = getattr(loaded.config, f"{kind}_token_index")
            for template in ("v1", "plain"):
                chat = loaded.chat(template)
                ids = chat.training(talk(f"<{kind}>\nq", "a"), [kind]).ids
                assert ids.count(place) == chat.prompt("q", [kind]).count(place) == count > 1


def _of_other_size():
    loaded = random_model("tiny", tiny_tokenizer(), 1)
    loaded.config.vision_config.image_size = 56
    loaded.config.image_seq_length = 16
    loaded.config.video_seq_length = 4 * 17
    return loaded
