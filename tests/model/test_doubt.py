import numpy as np
import pytest
from sklearn.datasets import load_digits

from model.doubt import doubts, look_alikes
from model.head import StreamingLDA
from model.left_out import leave_one_out


def digits(count):
    X, y = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(y))[:count]
    return X[chosen], y[chosen]


def flipped(y, count, seed=0):
    """Labels of which `count` name another class, and which these are."""
    random = np.random.default_rng(seed)
    wrong = random.choice(len(y), count, replace=False)
    given = y.copy()
    given[wrong] = (given[wrong] + random.integers(1, 10, count)) % 10
    return given, wrong


def found(X, y, tasks=None):
    groups = look_alikes(X)
    head = StreamingLDA().fit(X, y)
    return doubts(leave_one_out(head, X, y, groups=groups), y, head.classes_, groups, tasks)


def test_flipped_labels_come_first():
    X, y = digits(1000)
    given, wrong = flipped(y, 50)
    listed = found(X, given)
    hits = [doubt for doubt in listed[:50] if doubt.index in wrong]
    assert len(hits) >= 40
    assert np.mean([doubt.suggested == y[doubt.index] for doubt in hits]) > 0.9
    assert all(doubt.given == given[doubt.index] for doubt in listed)


def test_evidence_falls_and_is_always_for_another_class():
    X, y = digits(400)
    listed = found(X, flipped(y, 40)[0])
    evidence = [doubt.evidence for doubt in listed]
    assert evidence == sorted(evidence, reverse=True)
    assert all(doubt.evidence > 0 and doubt.suggested != doubt.given for doubt in listed)


def test_a_wrong_label_on_copies_is_not_vouched_for_by_them():
    X, y = digits(300)
    X, y = np.concatenate([X, np.repeat(X[:1], 9, axis=0)]), np.concatenate([y, np.repeat(y[:1], 9)])
    y[[0, *range(300, 309)]] = (y[0] + 5) % 10
    assert {doubt.index for doubt in found(X, y)[:10]} == {0, *range(300, 309)}


def test_of_two_labels_on_copies_the_wrong_one_is_listed_with_the_other_beside_it():
    X, y = digits(300)
    X, y = np.concatenate([X, X[8:9]]), np.append(y, (y[8] + 3) % 10)
    listed = found(X, y)
    assert (listed[0].index, listed[0].suggested, listed[0].look_alike) == (300, y[8], 8)
    assert listed[0].reason == f"looks the same as one labelled {y[8]}"
    assert 8 not in [doubt.index for doubt in listed]


def test_people_who_disagree_on_a_task_are_said_to():
    X, y = digits(300)
    X, y = np.concatenate([X, X[7:8]]), np.append(y, (y[7] + 3) % 10)
    first = found(X, y, tasks=np.append(np.arange(300), 7))[0]
    assert first.reason == f"somebody else labelled it {y[7]}"


def test_where_classes_overlap_doubts_are_weak():
    proba = [[0.001, 0.999], [0.45, 0.55], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]
    listed = doubts(proba, ["cat", "cat", "cat", "cat", "dog"], ["cat", "dog"])
    assert [(doubt.index, doubt.reason) for doubt in listed] == [(0, "looks like dog"), (1, "could as well be dog")]


def test_the_first_label_of_a_class_is_not_doubted():
    X, y = digits(200)
    names = np.array([f"digit {label}" for label in y])
    names[3] = "letter"
    assert 3 not in [doubt.index for doubt in found(X, names)]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_few_labels_raise_no_doubt(count):
    X, y = digits(200)
    assert doubts(np.full((count, 10), 0.1), y[:count], np.arange(10)) == []
    assert len(look_alikes(X[:count])) == count


def test_look_alikes_are_copies_and_what_hardly_differs():
    X, _ = digits(500)
    nearly = X[:20] + np.random.default_rng(0).normal(scale=0.2, size=(20, 64))
    groups = look_alikes(np.concatenate([X, X[:20], nearly]))
    assert (groups[500:520] == groups[:20]).all()
    assert (groups[520:] == groups[:20]).all()
    assert len(np.unique(groups)) > 490


def test_a_film_is_not_one_group():
    angle = np.linspace(0, 60, 600)
    frames = np.stack([np.cos(angle), np.sin(angle), angle], axis=1)
    assert np.bincount(look_alikes(frames)).max() < 100


def test_equal_images_are_one_group():
    assert (look_alikes(np.ones((1000, 5))) == 0).all()


def test_arguments_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="probabilities"):
        doubts([[0.5, 0.5]], ["cat", "dog"], ["cat", "dog"])
    with pytest.raises(ValueError, match="fox"):
        doubts([[0.5, 0.5]], ["fox"], ["cat", "dog"])
    with pytest.raises(ValueError, match="groups"):
        doubts([[0.5, 0.5]], ["cat"], ["cat", "dog"], groups=[0, 1])
    with pytest.raises(ValueError, match="finite"):
        look_alikes([[1.0, np.nan]])


def test_look_alikes_are_the_same_whether_pairs_are_looked_at_at_once_or_one_by_one(monkeypatch):
    X, _ = load_digits(return_X_y=True)
    X = np.concatenate([X, X[:300] + 0.01])
    found = []
    for few in (0.0, 2.0):
        monkeypatch.setattr("model.doubt._FEW", few)
        found.append(look_alikes(X))
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) <= len(X) - 300
