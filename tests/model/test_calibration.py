import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from model.calibration import AdaptiveCoverage, Calibration, calibrate, prediction_sets
from model.evaluation import expected_calibration_error
from model.head import StreamingLDA
from tests.model.test_left_out import learned, samples


def digits():
    """The handwritten digits that come with scikit-learn: 1,297 to learn and 500 to test."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    return X[500:], y[500:], X[:500], y[:500]


@pytest.mark.parametrize("count", [100, 400])
def test_a_calibrated_head_is_calibrated_on_new_samples_and_covers_what_it_was_asked_to(count):
    X, y, unseen, truth = digits()
    noisy = np.random.default_rng(0).normal(scale=6, size=(len(X) + len(unseen), 64))
    X, unseen = X + noisy[: len(X)], unseen + noisy[len(X) :]
    head = learned(X[:count], y[:count], classes=range(10))
    calibration = calibrate(head, X[:count], y[:count])
    probabilities = calibration.apply_to(head).predict_proba(unseen)
    assert expected_calibration_error(probabilities, truth) < 0.09
    sets = prediction_sets(probabilities, calibration.threshold(0.9))
    assert 0.85 < sets[np.arange(500), truth].mean() < 0.95
    assert 1 < sets.sum(axis=1).mean() < 5


def test_the_order_of_labels_does_not_matter():
    X, y = samples(200, 20, 4)
    by_class = np.argsort(y, kind="stable")
    calibration = calibrate(learned(X, y), X, y)
    as_sorted = calibrate(learned(X[by_class], y[by_class]), X[by_class], y[by_class])
    assert as_sorted.shrinkage == calibration.shrinkage
    assert as_sorted.heat == pytest.approx(calibration.heat, rel=1e-3)
    np.testing.assert_allclose(as_sorted.scores, calibration.scores, atol=1e-3)


def asked_for_being_unclear():
    """Return 40 samples of two clear classes, then 160 from between them, a third mislabelled; and more clear ones."""
    random = np.random.default_rng(0)
    X, y = clear(40, random)
    between, sides = clear(160, random)
    between = between - 0.6 * np.outer(2 * sides - 1, [4.0] + [0.0] * 9)
    wrong = random.random(160) < 1 / 3
    return np.concatenate([X, between]), np.concatenate([y, np.where(wrong, 1 - sides, sides)]), clear(500, random)


def clear(count, random):
    y = random.integers(2, size=count)
    return random.normal(size=(count, 10)) + np.outer(2 * y - 1, [4.0] + [0.0] * 9), y


def test_labels_asked_for_being_unclear_do_not_make_the_head_unsure_of_all_others():
    X, y, (unseen, truth) = asked_for_being_unclear()
    head = learned(X, y)
    misled = calibrate(head, X, y)
    calibration = calibrate(head, X, y, representative=np.arange(200) < 40, pool=unseen)
    assert (calibration.shrinkage, calibration.count) == (misled.shrinkage, misled.count)
    before = misled.apply_to(head).predict_proba(unseen)
    after = calibration.apply_to(head).predict_proba(unseen)
    assert expected_calibration_error(after, truth) < expected_calibration_error(before, truth) / 1.5


def test_labels_in_any_other_order_count_in_full():
    X, y, unseen, _ = digits()
    X, y, pool = X[:200], y[:200], np.concatenate([X[200:], unseen])
    head = learned(X, y)
    assert calibrate(head, X, y, representative=np.arange(200) < 20, pool=pool) == calibrate(head, X, y)


@pytest.mark.parametrize("pool", [None, np.zeros((0, 10))])
def test_where_no_image_is_left_to_stand_for_all_labels_count(pool):
    X, y, _ = asked_for_being_unclear()
    head = learned(X, y)
    assert calibrate(head, X, y, representative=np.zeros(200, dtype=bool), pool=pool) == calibrate(head, X, y)


def test_sets_hold_the_true_class_of_the_images_that_are_asked_as_often_as_was_asked():
    X, y, (pool, _) = asked_for_being_unclear()
    head = learned(X[:140], y[:140])
    calibration = calibrate(head, X[:140], y[:140], representative=np.arange(140) < 40, pool=pool)
    sets = prediction_sets(calibration.apply_to(head).predict_proba(X[140:]), calibration.threshold(0.9))
    assert 0.83 < sets[np.arange(60), y[140:]].mean() < 0.97


@pytest.mark.parametrize("representative", [[True], np.ones(40), [[True] * 40]])
def test_what_is_representative_must_be_said_of_each_sample(representative):
    X, y = samples(40, 3, 4)
    with pytest.raises(ValueError, match="40 samples; say of each"):
        calibrate(learned(X, y), X, y, representative=representative)


def test_labels_that_are_noise_make_probabilities_flatter():
    random = np.random.default_rng(0)
    X, y, unseen = random.normal(size=(200, 30)), random.integers(4, size=200), random.normal(size=(200, 30))
    head = learned(X, y)
    before = head.predict_proba(unseen).max(axis=1).mean()
    after = calibrate(head, X, y).apply_to(head).predict_proba(unseen).max(axis=1).mean()
    assert after < before
    assert after < 0.4


def test_copies_do_not_make_the_head_surer():
    X, y = samples(40, 3, 4)
    once = calibrate(learned(X, y), X, y)
    X, y = np.vstack([X] * 3), np.tile(y, 3)
    thrice = calibrate(learned(X, y), X, y)
    apart = calibrate(learned(X, y), X, y, groups=np.arange(120))
    assert thrice.count == once.count == 40
    assert np.mean(thrice.scores) > 0.9 * np.mean(once.scores)
    assert np.mean(apart.scores) < np.mean(thrice.scores)


def test_a_fresh_head_keeps_what_it_has_by_default():
    assert calibrate(StreamingLDA().declare([1, 2]), np.zeros((0, 3)), np.zeros(0, int)) == Calibration()


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1, 2], [0, 1]])
def test_too_few_labels_to_go_by_change_little_and_name_every_class(labels):
    X = np.random.default_rng(0).normal(size=(len(labels), 50))
    calibration = calibrate(learned(X, labels, classes=range(5)), X, labels)
    assert 0.5 <= calibration.shrinkage <= 2.0
    assert 0.7 < calibration.heat < 1.5
    assert prediction_sets(np.full((1, 5), 0.2), calibration.threshold(0.9)).all()


def test_many_labels_are_judged_by_a_part_of_them_that_is_always_the_same():
    X, y = samples(5000, 6, 3)
    head = learned(X, y)
    calibration = calibrate(head, X, y)
    assert calibration.count == 2000
    assert calibrate(head, X, y) == calibration
    assert len(json.dumps(calibration.to_dict())) < 6000


def test_a_head_built_anew_from_labels_and_calibration_serves_the_same_weights():
    X, y = samples(60, 20, 4)
    head = learned(X, y)
    calibration = calibrate(head, X, y)
    before = head.weights().to_bytes()
    assert calibration.apply_to(head).weights().to_bytes() != before
    stored = json.loads(json.dumps(calibration.to_dict()))
    other = Calibration.from_dict(stored).apply_to(StreamingLDA().declare(np.arange(0))).partial_fit(X, y)
    assert other.weights().to_bytes() == head.weights().to_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"shrinkage": -1.0},
        {"shrinkage": None},
        {"heat": 0.0},
        {"heat": float("nan")},
        {"count": 1.5},
        {"count": 0},
        {"count": 2},
        {"count": True},
        {"scores": []},
        {"scores": 3},
        {"scores": [0.5, 0.2, 0.1]},
        {"scores": [0.1, 0.2, 1.5]},
        {"scores": ["high"]},
    ],
)
def test_a_stored_calibration_that_makes_no_sense_is_refused(changes):
    values = {"shrinkage": 1.0, "heat": 1.0, "count": 3, "scores": [0.1, 0.2, 0.3]}
    assert Calibration.from_dict(values).to_dict() == values
    with pytest.raises(ValueError, match=r"calibration|float"):
        Calibration.from_dict({**values, **changes})


def test_a_stored_calibration_must_be_whole():
    with pytest.raises(ValueError, match="no calibration"):
        Calibration.from_dict({"shrinkage": 1.0})


def test_thresholds_grow_with_the_coverage_asked_for():
    calibration = Calibration(count=1000, scores=tuple(np.linspace(0.01, 0.9, 200).tolist()))
    thresholds = [calibration.threshold(coverage) for coverage in (-0.1, 0.0, 0.5, 0.9, 0.99, 1.0, 1.1)]
    assert thresholds == sorted(thresholds)
    assert (thresholds[0], thresholds[-1]) == (0.0, 1.0)


def test_sets_are_never_empty_and_hold_the_likeliest_class():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(7), size=100)
    for threshold in (0.0, 0.5, 1.0):
        sets = prediction_sets(probabilities, threshold)
        assert sets[np.arange(100), probabilities.argmax(axis=1)].all()
    assert sets.all()
    with pytest.raises(ValueError, match="table"):
        prediction_sets([0.5, 0.5], 0.9)


def test_coverage_recovers_after_a_shift():
    random = np.random.default_rng(0)
    scores = np.sort(random.beta(1, 4, size=500))
    calibration = Calibration(count=500, scores=tuple(np.quantile(scores, np.arange(1, 201) / 200).tolist()))
    drawn = np.concatenate([random.beta(1, 4, size=1500), random.beta(2, 3, size=1500)])
    adaptive, covered = AdaptiveCoverage(target=0.9), []
    for score in drawn:
        covered.append(bool(score <= calibration.threshold(adaptive.level)))
        adaptive = AdaptiveCoverage.from_dict(json.loads(json.dumps(adaptive.update(covered[-1]).to_dict())))
    fixed = drawn <= calibration.threshold(0.9)
    assert fixed[:1500].mean() > 0.87
    assert fixed[-1000:].mean() < 0.75
    assert 0.87 < np.mean(covered[:1500]) < 0.93
    assert 0.87 < np.mean(covered[-1000:]) < 0.93


@pytest.mark.parametrize("usual", [True, False])
def test_what_always_goes_one_way_is_not_held_against_what_comes(usual):
    adaptive = AdaptiveCoverage(target=0.9)
    for _ in range(5000):
        adaptive = adaptive.update(covered=usual)
    for _ in range(500):
        adaptive = adaptive.update(covered=not usual)
    assert adaptive.level == (0.0 if not usual else 1.0)


@pytest.mark.parametrize("values", [{"target": 1.0}, {"step": 0.0}, {"level": 9.0}, {"level": None}, {"step": "big"}])
def test_a_stored_adaptive_coverage_that_makes_no_sense_is_refused(values):
    with pytest.raises(ValueError, match=r"adaptive coverage|float"):
        AdaptiveCoverage.from_dict({**AdaptiveCoverage().to_dict(), **values})
