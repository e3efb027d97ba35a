import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmark import grade
from raypipe.errors import RequestError
from tests.support.eval_roots import made_up, write_lines

POPE = benchmarks.load("pope")


@pytest.fixture
def root(tmp_path):
    return made_up(tmp_path, "pope")


def _metrics(root, replies):
    questions = POPE.questions(root)
    return POPE.metrics([grade(POPE, q, reply) for q, reply in zip(questions, replies, strict=True)])


def test_labels_are_joined_by_content(root):
    assert [q.reference for q in POPE.questions(root)] == ["yes", "no", "no", "yes", "yes"]
    assert POPE.questions(root)[0].medium.path == "pope/val2014/kite.jpg"
    assert POPE.questions(root)[0].question == "Is there a kite in the image?"


def test_metrics_of_each_category(root):
    metrics = _metrics(root, ["Yes", "Yes", "No", "No", "Yes"])
    assert metrics["f1/adversarial"] == pytest.approx(200 / 3)
    assert metrics["precision/adversarial"] == 50
    assert metrics["recall/adversarial"] == 100
    assert metrics["yes_ratio/adversarial"] == 100
    assert (metrics["f1/popular"], metrics["f1/random"]) == (0, 100)
    assert metrics["f1"] == pytest.approx((200 / 3 + 0 + 100) / 3)
    assert metrics["accuracy"] == 60


def test_nobody_says_yes_is_zero_and_no_crash(root):
    metrics = _metrics(root, ["No"] * 5)
    assert (metrics["f1"], metrics["precision/random"], metrics["recall/random"]) == (0, 0, 0)


def test_a_category_without_an_answer_leaves_the_mean(root):
    questions = POPE.questions(root)
    graded = [grade(POPE, q, q.reference) for q in questions[:4]]
    graded.append(benchmarks.ungraded(questions[4], benchmarks.Outcome.MEDIUM_BAD))
    assert POPE.metrics(graded)["f1"] == 100


@pytest.mark.parametrize("row", [{"text": "Is there a cat in the image?"}, {"image": "other.jpg"}])
def test_other_labels_are_refused(root, row):
    label = {"image": "cook.jpg", "text": "Is there a pan in the image?", "label": "yes", **row}
    write_lines(root / "pope/coco/coco_pope_random.json", [label])
    with pytest.raises(RequestError, match=r"'Is there a pan.*' on 'cook\.jpg' is not in") as fault:
        POPE.questions(root)
    assert "e3e39262" in fault.value.remedy


def test_more_labels_than_questions_are_refused(root):
    path = root / "pope/coco/coco_pope_random.json"
    write_lines(path, [{"image": "x.jpg", "text": "Is there a cat?", "label": "no"}])
    path.write_text(
        path.read_text() + '{"image": "cook.jpg", "text": "Is there a pan in the image?", "label": "yes"}'
    )
    with pytest.raises(
        RequestError, match=r"holds 1 questions that .* does not ask, for example 'Is there a cat"
    ):
        POPE.questions(root)


@pytest.mark.parametrize("image", ["../secret.jpg", "/etc/passwd", ""])
def test_images_stay_in_their_folder(root, image):
    row = {"image": image, "text": "Is there a pan in the image?", "label": "yes"}
    write_lines(root / "pope/coco/coco_pope_random.json", [row])
    questions = root / "pope/llava_pope_test.jsonl"
    questions.write_text(
        questions.read_text().replace(
            '"image": "cook.jpg", "text": "Is there a pan', f'"image": "{image}", "text": "Is there a pan'
        )
    )
    with pytest.raises(RequestError, match="not a name inside"):
        POPE.questions(root)


def test_a_strange_label_is_named(root):
    write_lines(root / "pope/coco/coco_pope_random.json", [{"image": "a", "text": "b", "label": "perhaps"}])
    with pytest.raises(RequestError, match="line 1: label 'perhaps'"):
        POPE.questions(root)
