import math
import random

import numpy as np
import pytest

from model.people import consensus

CLASSES = ["angry", "neutral", "sad"]


def crowd(*, tasks, seed=0, **people):
    """Answers of everyone to every task, and the truth; a person is how often they are right, or how they answer."""
    rng = random.Random(seed)
    truth = {task: rng.choice(CLASSES) for task in range(tasks)}
    answers = []
    for task, label in truth.items():
        for person, way in people.items():
            wrong = rng.choice([each for each in CLASSES if each != label])
            answer = way(label) if callable(way) else label if rng.random() < way else wrong
            answers.append((task, person, answer))
    return answers, truth


def likeliest(joined):
    return {task: CLASSES[int(soft.argmax())] for task, soft in joined.soft_labels.items()}


def right(joined, truth):
    return sum(likeliest(joined)[task] == label for task, label in truth.items())


def test_without_weighing_soft_labels_are_shares_of_votes():
    joined = consensus([(1, "ann", "sad"), (1, "bob", "sad"), (1, "eve", "angry")], CLASSES)
    assert joined.classes == ("angry", "neutral", "sad")
    assert joined.soft_labels[1] == pytest.approx([1 / 3, 0, 2 / 3])


@pytest.mark.parametrize("weigh", [False, True])
def test_the_label_of_one_person_alone_stays_as_it_is(weigh):
    answers, _ = crowd(tasks=30, ann=0.9, bob=0.9, eve=0.1)
    joined = consensus([*answers, ("alone", "eve", "neutral")], CLASSES, weigh=weigh)
    assert joined.soft_labels["alone"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("weigh", [False, True])
def test_one_person_only_is_believed_in_all(weigh):
    joined = consensus([(task, "ann", CLASSES[task % 3]) for task in range(9)], CLASSES, weigh=weigh)
    assert np.array_equal(np.stack([*joined.soft_labels.values()]), np.eye(3)[[0, 1, 2] * 3])
    ann = joined.people["ann"]
    assert (ann.labels, ann.shared, ann.interval) == (9, 0, (0.0, 1.0))
    assert ann.confusion.sum() == 0
    assert math.isnan(ann.agreement)
    assert math.isnan(joined.alpha)


def test_two_people_who_shared_ten_tasks_are_believed_about_equally():
    answers = [(task, who, CLASSES[task % 3]) for task in range(8) for who in ("ann", "bob")]
    answers += [(8, "ann", "sad"), (8, "bob", "angry"), (9, "ann", "sad"), (9, "bob", "neutral")]
    joined = consensus(answers, CLASSES, weigh=True)
    assert 0.25 < joined.soft_labels[8][2] < 0.75
    assert joined.people["ann"].agreement == joined.people["bob"].agreement == 0.8
    assert joined.people["ann"].reliability == pytest.approx(joined.people["bob"].reliability, abs=0.05)


def test_weighing_sees_who_is_mistaken_often():
    answers, truth = crowd(tasks=150, ann=0.95, bob=0.5, eve=0.5)
    plain, weighed = consensus(answers, CLASSES), consensus(answers, CLASSES, weigh=True)
    assert right(weighed, truth) > right(plain, truth)
    assert weighed.people["ann"].reliability > weighed.people["bob"].reliability + 0.2


def test_one_who_always_says_the_same_is_not_believed():
    answers, truth = crowd(tasks=100, ann=0.85, bob=0.85, eve=lambda label: "sad")
    joined = consensus(answers, CLASSES, weigh=True)
    eve = joined.people["eve"]
    assert eve.reliability < joined.people["ann"].reliability
    assert eve.confusion[:, :2].sum() == 0
    disputed = [task for task in truth if len({label for t, who, label in answers if t == task and who != "eve"}) == 1]
    assert all(likeliest(joined)[task] == next(a[2] for a in answers if a[0] == task) for task in disputed)


def test_one_who_turns_classes_round_tells_the_truth_by_it():
    turned = dict(zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True))
    answers, truth = crowd(tasks=150, ann=0.8, bob=0.8, eve=turned.get)
    joined = consensus(answers, CLASSES, weigh=True)
    assert joined.people["eve"].reliability < 0.2
    assert right(joined, truth) > right(consensus(answers, CLASSES), truth) + 10


def test_confusions_name_the_classes_that_are_mixed_up():
    mixed = {"angry": "sad", "neutral": "neutral", "sad": "sad"}
    answers, truth = crowd(tasks=90, ann=1.0, bob=1.0, eve=mixed.get)
    confusion = consensus(answers, CLASSES).people["eve"].confusion
    angry = sum(label == "angry" for label in truth.values())
    assert confusion[0] == pytest.approx([0, 0, angry], abs=0.5)
    assert confusion.sum() == pytest.approx(90)


def test_the_order_of_answers_changes_nothing_at_all():
    answers, _ = crowd(tasks=60, ann=0.9, bob=0.6, eve=0.4)
    one = consensus(answers, CLASSES, weigh=True)
    random.Random(1).shuffle(answers)
    other = consensus(answers, CLASSES, weigh=True)
    assert one.alpha == other.alpha
    assert {task: soft.tolist() for task, soft in one.soft_labels.items()} == {
        task: soft.tolist() for task, soft in other.soft_labels.items()
    }
    assert [each.reliability for each in one.people.values()] == [each.reliability for each in other.people.values()]


def test_the_same_answer_twice_counts_once_and_two_labels_share_a_vote():
    joined = consensus([(1, "ann", "sad"), (1, "ann", "sad"), (1, "bob", "sad"), (1, "bob", "angry")], CLASSES)
    assert joined.soft_labels[1].tolist() == [0.25, 0, 0.75]
    assert joined.people["bob"].labels == 1
    assert joined.people["ann"].agreement == joined.people["bob"].agreement == 0.5


def test_alpha_is_that_of_the_published_example():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, section C: nominal data, missing values: .743
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    answers = [(task, who, label) for who, row in enumerate(rows) for task, label in enumerate(row) if label != "."]
    assert consensus(answers, list("12345")).alpha == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_one_in_agreement_and_about_zero_by_chance():
    answers, _ = crowd(tasks=20, ann=1.0, bob=1.0)
    assert consensus(answers, CLASSES).alpha == 1
    answers, _ = crowd(tasks=2000, ann=1 / 3, bob=1 / 3)
    assert abs(consensus(answers, CLASSES).alpha) < 0.05


def test_alpha_is_unknown_when_all_say_the_same_class():
    assert math.isnan(consensus([(task, who, "sad") for task in range(5) for who in "ab"], CLASSES).alpha)


def test_no_answers_are_no_consensus():
    joined = consensus([], CLASSES, weigh=True)
    assert (joined.soft_labels, joined.people) == ({}, {})


def test_thousands_of_sparse_answers_are_joined():
    rng = random.Random(0)
    answers = [(rng.randrange(5000), f"person {rng.randrange(20)}", rng.choice(CLASSES)) for _ in range(10000)]
    joined = consensus(answers, CLASSES, weigh=True)
    assert len(joined.people) == 20
    assert np.allclose(np.stack([*joined.soft_labels.values()]).sum(axis=1), 1)


def test_one_class_is_no_difficulty():
    joined = consensus([(1, "ann", "only"), (1, "bob", "only")], ["only"], weigh=True)
    assert joined.soft_labels[1].tolist() == [1.0]


def test_labels_that_are_no_class_and_repeated_classes_are_refused():
    with pytest.raises(ValueError, match="'glad'"):
        consensus([(1, "ann", "glad")], CLASSES)
    with pytest.raises(ValueError, match="twice"):
        consensus([(1, "ann", "sad")], ["sad", "sad"])
