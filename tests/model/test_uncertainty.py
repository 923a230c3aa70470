import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from model.head import StreamingLDA
from model.left_out import leave_one_out
from model.uncertainty import NOVEL, Novelty, ambiguity, fit_novelty, reason, regions

CLASSES = ["angry", "happy", "sad", "surprise"]


def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order]


def learned(X, y, pool, classes=10):
    """The novelty of what was learned from labels X, y and unlabelled images."""
    head = StreamingLDA().fit(X, y)
    proba = leave_one_out(head, X, y)
    pool_proba = head.predict_proba(pool) if len(pool) else np.zeros((0, len(head.classes_)))
    return fit_novelty(X, y, regions(np.concatenate([X, pool]), classes), proba, pool_proba), head


def area(scores, novel):
    return roc_auc_score(novel, scores)


@pytest.mark.parametrize("hidden", [0, 3, 8])
def test_a_class_that_nobody_labelled_is_found_among_the_unlabelled(hidden):
    X, y = digits()
    labelled, pool, test = X[:200][y[:200] != hidden], X[200:1200], X[1200:]
    novelty, _ = learned(labelled, y[:200][y[:200] != hidden], pool)
    assert area(novelty.score(test), y[1200:] == hidden) > 0.9


def test_an_image_far_from_all_others_is_novel_without_a_pool():
    X, y = digits()
    novelty, _ = learned(X[:200], y[:200], X[:0])
    strange = np.random.default_rng(0).permutation(X[:50].ravel()).reshape(50, -1)
    assert np.median(novelty.score(strange)) > NOVEL
    assert np.median(novelty.score(X[200:600])) < 0.7


def test_few_images_are_called_novel_when_nothing_is_new():
    X, y = digits()
    novelty, _ = learned(X[:300], y[:300], X[300:1000])
    share = (novelty.score(X[1000:]) >= NOVEL).mean()
    assert 0.01 < share < 0.1


def test_a_hidden_class_is_found_though_only_unclear_images_were_labelled():
    X, y = digits()
    areas = []
    for hidden in (0, 3, 8):
        known = np.flatnonzero(y[:1000] != hidden)
        surest = StreamingLDA().fit(X[known[:100]], y[known[:100]]).predict_proba(X[known]).max(axis=1)
        asked = np.union1d(known[:60], known[np.argsort(surest)[:200]])
        novelty, _ = learned(X[asked], y[asked], X[np.setdiff1d(np.arange(1000), asked)])
        areas.append(area(novelty.score(X[1000:]), y[1000:] == hidden))
    # Were all labels to count the same, what the head is sure of would look bare, and it would be .79.
    assert np.mean(areas) > 0.82


def test_a_class_is_no_longer_novel_once_it_is_labelled():
    X, y = digits()
    known = y[:200] != 4
    before, _ = learned(X[:200][known], y[:200][known], X[200:1000])
    after, _ = learned(X[:200], y[:200], X[200:1000])
    fours = X[1000:][y[1000:] == 4]
    assert np.median(before.score(fours)) > 0.9
    assert np.median(after.score(fours)) < 0.7


def test_novel_and_ambiguous_are_told_apart():
    X, y = digits()
    known = y[:300] != 6
    novelty, head = learned(X[:300][known], y[:300][known], X[300:1000])
    between = (X[:20][y[:20] != 6][:10] + X[20:60][y[20:60] != 6][:10]) / 2
    sixes = X[1000:][y[1000:] == 6]
    assert np.median(novelty.score(sixes)) > np.quantile(novelty.score(between), 0.5)
    assert ambiguity(head.predict_proba(between)).mean() > ambiguity(head.predict_proba(sixes)).mean()


def test_novelty_never_leaves_its_scale_whatever_the_number_of_labels():
    X, y = digits()
    for labels in range(8, 60):  # weights whose sum depends on the order
        novelty, _ = learned(X[:labels], y[:labels], X[labels : labels + 200])
        scores = novelty.score(X[:400])
        assert ((scores >= 0) & (scores <= 1)).all(), labels


def test_no_image_is_more_novel_than_the_labels_can_tell():
    X, y = digits()
    for count in (1, 2, 3, 9):
        novelty, _ = learned(X[:count], y[:count], X[100:200])
        scores = novelty.score(np.concatenate([X[:300], 1000 * np.random.default_rng(0).normal(size=(5, 64))]))
        assert scores.min() >= 0
        assert scores.max() <= 1 - 1 / (count + 1) + 1e-12


def test_one_class_and_equal_images_are_enough():
    X, _ = digits()
    same = np.repeat(X[:1], 30, axis=0)
    novelty, _ = learned(same, ["one"] * 30, X[:0], classes=1)
    assert novelty.score(X[:1])[0] < 0.5
    assert (novelty.score(X[1:50]) > NOVEL).all()


def test_the_score_of_an_image_does_not_depend_on_its_company_or_precision():
    X, y = digits()
    novelty, _ = learned(X[:100], y[:100], X[100:400])
    together = novelty.score(X[400:].repeat(4, axis=0))[::4]
    one_by_one = [novelty.score(row[np.newaxis])[0] for row in X[400:450]]
    np.testing.assert_allclose(together[:50], one_by_one, atol=0.03)
    np.testing.assert_allclose(novelty.score(X[400:].astype(np.float16)), novelty.score(X[400:]), atol=0.03)
    assert novelty.score(X[:0]).shape == (0,)


def test_bytes_hold_all_of_it():
    X, y = digits()
    novelty, _ = learned(X[:500], y[:500], X[500:900])
    np.testing.assert_array_equal(Novelty.from_bytes(novelty.to_bytes()).score(X), novelty.score(X))


def test_a_version_writes_little_at_full_width():
    random = np.random.default_rng(0)
    X, y = random.random((600, 1280)), random.integers(7, size=600)
    novelty = fit_novelty(X, y, regions(X, 7), np.full((600, 7), 1 / 7), np.zeros((0, 7)))
    assert len(novelty.to_bytes()) < 130_000


def test_bytes_that_are_something_else_are_refused():
    X, y = digits()
    novelty, _ = learned(X[:50], y[:50], X[50:90])
    whole = novelty.to_bytes()
    torn = dataclasses.replace(novelty, shares=novelty.shares * 1.0)
    object.__setattr__(torn, "shares", novelty.shares[:-1])
    for data in (b"", b"nothing", whole[: len(whole) // 2], torn.to_bytes()):
        with pytest.raises(ValueError, match=r"novelty"):
            Novelty.from_bytes(data)


@pytest.mark.parametrize("X", [np.zeros(64), np.zeros((2, 63)), np.full((1, 64), np.nan)])
def test_features_that_do_not_fit_are_refused(X):
    features, y = digits()
    novelty, _ = learned(features[:50], y[:50], features[50:90])
    with pytest.raises(ValueError, match="X "):
        novelty.score(X)


def test_arguments_that_do_not_belong_together_are_refused():
    X, y = digits()
    where = regions(X[:100], 10)
    flat = np.full((20, 10), 0.1)
    with pytest.raises(ValueError, match="label"):
        fit_novelty(X[:20], y[:19], where, flat, flat)
    with pytest.raises(ValueError, match="probabilities of 20"):
        fit_novelty(X[:19], y[:19], where, flat, flat)
    with pytest.raises(ValueError, match="at least one"):
        regions(X[:0], 10)


def test_ambiguity_is_how_often_two_answers_differ():
    proba = np.array([0.5, 0.3, 0.2])
    answers = np.random.default_rng(0).choice(3, size=(20_000, 2), p=proba)
    assert ambiguity([proba])[0] == pytest.approx((answers[:, 0] != answers[:, 1]).mean(), abs=0.02)
    assert ambiguity([[0.25] * 4])[0] == pytest.approx(0.75)
    assert ambiguity([[0.45, 0.45]])[0] == pytest.approx(0.5)
    assert ambiguity([[1.0]])[0] == 0


@pytest.mark.parametrize(
    ("proba", "likely", "novelty", "words"),
    [
        ([0.02, 0.93, 0.03, 0.02], ["happy"], 0.2, "happy, 93 %"),
        ([0.02, 0.93, 0.03, 0.02], ["happy", "sad"], 0.2, "happy, 93 %"),
        ([0.4, 0.05, 0.5, 0.05], ["angry", "sad"], 0.2, "sad or angry: both fit"),
        ([0.3, 0.05, 0.35, 0.3], ["angry", "sad", "surprise"], 0.2, "sad, angry or surprise: all fit"),
        ([0.25, 0.24, 0.26, 0.25], CLASSES, 0.2, "sad, angry or 2 others: all fit"),
        ([0.02, 0.93, 0.03, 0.02], ["happy"], 0.96, "unlike anything labelled so far, least unlike happy"),
        ([0.1, 0.4, 0.2, 0.3], [], 0.2, "happy, 40 %"),
        ([0.001, 0.997, 0.001, 0.001], ["happy"], 0.2, "happy, 99 %"),
    ],
)
def test_the_reason_is_what_a_person_would_say(proba, likely, novelty, words):
    assert reason(CLASSES, proba, likely, novelty) == words


def test_the_reason_of_one_class_promises_nothing():
    assert reason(["happy"], [1.0], ["happy"], 0.1) == "happy, the only class labelled so far"


@pytest.mark.parametrize("novelty", [0.0, 1.0])
@pytest.mark.parametrize("proba", [[0.3, 0.3, 0.4], [0.5, 0.49, 0.01], [0.01, 0.98, 0.01]])
def test_the_reason_stays_short_with_any_names(proba, novelty):
    names = ["a {very} long name " * 9, "b" * 200, "%s {0}"]
    words = reason(names, proba, names, novelty)
    assert len(words) <= 80


def test_numbers_are_classes_too():
    assert reason([0, 1], [0.5, 0.5], [0, 1], 0.0) == "0 or 1: both fit"
