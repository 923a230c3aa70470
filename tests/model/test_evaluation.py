import json
import math

import numpy as np
import pytest

from model.evaluation import (
    Forgetting,
    Prequential,
    accuracy,
    accuracy_matrix,
    confusion,
    expected_calibration_error,
    forgetting,
    log_loss,
    reliability,
    score_by_domain,
    wilson_interval,
)
from model.head import StreamingLDA


def test_prequential_counts_all_and_the_newest():
    prequential = Prequential(window=3)
    for correct in [True, True, False, False, True]:
        prequential.add(0.5, correct)
    assert prequential.count == 5
    assert prequential.accuracy == 3 / 5
    assert prequential.recent_accuracy == 1 / 3
    assert prequential.log_loss == pytest.approx(math.log(2))


def test_prequential_has_no_accuracy_before_the_first_label():
    prequential = Prequential()
    assert math.isnan(prequential.accuracy)
    assert math.isnan(prequential.recent_accuracy)
    assert math.isnan(prequential.log_loss)


def test_a_class_that_was_not_known_is_a_bounded_surprise():
    prequential = Prequential()
    prequential.add(0.0, correct=False)
    assert prequential.log_loss == pytest.approx(math.log(1e6))


def test_prequential_goes_on_after_being_written_down():
    prequential, straight = Prequential(window=3), Prequential(window=3)
    for place, probability in enumerate([0.1, 0.9, 0.4, 0.6, 0.7]):
        prequential.add(probability, correct=place % 2 == 0)
        straight.add(probability, correct=place % 2 == 0)
        prequential = Prequential.from_dict(json.loads(json.dumps(prequential.to_dict())))
    assert prequential.to_dict() == straight.to_dict()
    assert prequential.recent_accuracy == straight.recent_accuracy


@pytest.mark.parametrize(
    "change", [{"window": 0}, {"correct": 9}, {"recent": "10x"}, {"recent": "1111"}, {"count": None}, {"loss": "much"}]
)
def test_a_broken_prequential_evaluation_is_refused(change):
    prequential = Prequential()
    prequential.add(0.5, correct=True)
    with pytest.raises(ValueError, match=r"prequential|float"):
        Prequential.from_dict({**prequential.to_dict(), **change})


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Prequential().add(probability, correct=True)


def test_calibration_error_is_zero_when_sureness_equals_frequency():
    assert expected_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 1]) == 0


def test_calibration_error_weighs_bins_by_their_samples():
    proba = [[0.9, 0.1]] * 3 + [[0.6, 0.4]]
    assert expected_calibration_error(proba, [0, 0, 1, 0]) == pytest.approx(
        0.75 * abs(0.9 - 2 / 3) + 0.25 * abs(0.6 - 1)
    )


def test_full_certainty_falls_into_the_last_bin():
    assert expected_calibration_error(np.eye(2), [0, 1]) == 0
    assert expected_calibration_error(np.eye(2), [1, 0]) == 1


def test_accuracy_and_log_loss():
    proba = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]
    assert accuracy(proba, [0, 2]) == 0.5
    assert log_loss(proba, [0, 2]) == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)


@pytest.mark.parametrize("y", [[0], [0, 3], [0, -1], [0.0, 1.0], ["a", "b"]])
def test_classes_that_are_no_columns_are_refused(y):
    for measure in (accuracy, log_loss, expected_calibration_error, reliability, confusion):
        with pytest.raises(ValueError, match="class"):
            measure([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], y)


def test_reliability_and_calibration_error_tell_the_same():
    random = np.random.default_rng(0)
    proba = random.dirichlet(np.ones(4), size=200)
    y = random.integers(4, size=200)
    points = reliability(proba, y)
    assert points.count.sum() == 200
    full = points.count > 0
    gaps = np.abs(points.confidence - points.accuracy)[full] @ points.count[full] / 200
    assert gaps == pytest.approx(expected_calibration_error(proba, y))
    assert np.isnan(points.accuracy[~full]).all()


def test_confusion_counts_every_sample_once():
    proba = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2]]
    assert confusion(proba, [0, 1, 2, 2]).tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("successes", "count", "interval"),
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_intervals_are_the_published_ones(successes, count, interval):
    assert wilson_interval(successes, count) == pytest.approx(interval, abs=1e-4)


def test_nothing_is_known_without_trials_and_more_successes_than_trials_are_refused():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2"):
        wilson_interval(3, 2)


def test_each_domain_is_scored_by_its_own_labels():
    scores = score_by_domain(["yard", "hall", "yard"], [0.5, 0.8, 0.25], [True, True, False])
    assert list(scores) == ["hall", "yard"]
    assert scores["yard"].count == 2
    assert scores["yard"].accuracy == 0.5
    assert scores["yard"].interval == wilson_interval(1, 2)
    assert scores["yard"].log_loss == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    assert scores["hall"].log_loss == pytest.approx(-math.log(0.8))


def test_domains_are_scored_as_all_labels_are():
    prequential = Prequential()
    stream = [(0.0, False), (0.4, False), (0.9, True)]
    for probability, correct in stream:
        prequential.add(probability, correct)
    score = score_by_domain(["all"] * 3, *zip(*stream, strict=True))["all"]
    assert (score.accuracy, score.log_loss) == pytest.approx((prequential.accuracy, prequential.log_loss))


def test_no_labels_are_no_domains():
    assert score_by_domain([], [], []) == {}


@pytest.mark.parametrize(
    ("probability", "correct"), [([0.5], [True]), ([0.5, 1.5], [True, True]), ([0.5, 0.5], [True])]
)
def test_domains_of_other_labels_or_no_probabilities_are_refused(probability, correct):
    with pytest.raises(ValueError, match=r"each label|between 0 and 1"):
        score_by_domain(["hall", "yard"], probability, correct)


def test_accuracy_matrix_tries_every_head_on_every_domain():
    samples = [
        (np.array([[0.0, 1.0], [0.1, 1.0]]), ["cat", "cat"]),
        (np.array([[1.0, 0.0], [0.9, 0.1]]), ["dog", "dog"]),
    ]
    head, heads = StreamingLDA(), []
    for X, y in samples:
        heads.append(head.partial_fit(X, y).weights())
    assert accuracy_matrix(heads, samples).tolist() == [[1, 0], [1, 1]]


def test_forgetting_is_from_the_best_and_transfer_from_the_first():
    summary = forgetting([[0.5, 0.0, 0.0], [1.0, 0.75, 0.0], [0.75, 0.5, 1.0]])
    assert summary.average_accuracy == 0.75
    assert summary.average_forgetting == 0.25
    assert summary.backward_transfer == 0.0


def test_one_domain_forgets_nothing():
    assert forgetting([[0.75]]) == Forgetting(0.75, 0.0, 0.0)


@pytest.mark.parametrize("accuracies", [[], [[0.5, 0.5]], [[1.5]], [[math.nan]]])
def test_what_is_no_square_of_accuracies_is_refused(accuracies):
    with pytest.raises(ValueError, match="Accuracies"):
        forgetting(accuracies)
