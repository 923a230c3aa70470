import json
import math

import numpy as np
import pytest

from model.evaluation import Prequential, accuracy, expected_calibration_error, log_loss


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
    for measure in (accuracy, log_loss, expected_calibration_error):
        with pytest.raises(ValueError, match="class"):
            measure([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], y)
