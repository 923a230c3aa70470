import numpy as np
import pytest

from model.shift import LEAST_LABELS, drifting_features, rising_errors

DIM = 32


def outcomes(count, seed, worse=0.0):
    """A record whose predictions are as sure as they should be, or wrong by so much more."""
    random = np.random.default_rng(seed)
    confidence = random.uniform(0.4, 1.0, count)
    return confidence, random.random(count) < confidence - worse


def joined(*records):
    return tuple(np.concatenate(columns) for columns in zip(*records, strict=True))


def images(count, seed, centre=0):
    points = np.random.default_rng(seed).normal(size=(count, DIM))
    points[:, centre] += 10
    return points


def test_errors_that_confidence_admits_raise_no_alarm():
    assert sum(rising_errors(*outcomes(1000, seed)) is not None for seed in range(20)) <= 1


def test_more_errors_than_confidence_admits_raise_one_alarm_that_tells_since_when():
    for seed in range(5):
        alarm = rising_errors(*joined(outcomes(300, seed), outcomes(150, seed + 100, worse=0.35)))
        assert alarm.kind == "errors"
        assert 200 <= alarm.since <= 330
        assert alarm.since < alarm.raised < 400
        assert alarm.evidence["observed"] > 1.5 * alarm.evidence["expected"]
        assert f"{alarm.evidence['observed']:.0f} are not what was predicted" in alarm.sentence


def test_harder_tasks_that_are_known_to_be_hard_raise_no_alarm():
    random = np.random.default_rng(0)
    easy, hard = np.full(300, 0.95), np.full(300, 0.4)
    confidence = np.concatenate([easy, hard])
    assert rising_errors(confidence, random.random(600) < confidence) is None


def test_a_head_that_becomes_honest_after_being_too_modest_raises_no_alarm():
    modest = (np.full(300, 0.5), np.arange(300) % 5 > 0)
    honest = (np.full(300, 0.8), np.arange(300) % 5 > 0)
    assert rising_errors(*joined(modest, honest)) is None


def test_few_wrong_labels_among_sure_predictions_raise_no_alarm():
    assert rising_errors(np.ones(1000), np.arange(1000) % 20 > 0) is None


def test_the_alarm_of_errors_ends_when_predictions_are_right_again():
    shift = joined(outcomes(300, 0), outcomes(150, 1, worse=0.35))
    assert rising_errors(*shift) is not None
    assert rising_errors(*joined(shift, outcomes(300, 2))) is None


def test_nothing_recorded_is_no_alarm():
    assert rising_errors([], []) is None


@pytest.mark.parametrize(("confidence", "correct"), [([0.5], []), ([1.5], [True]), ([np.nan], [True]), (0.5, True)])
def test_records_that_do_not_fit_are_refused(confidence, correct):
    with pytest.raises(ValueError, match=r"[Cc]onfidence"):
        rising_errors(confidence, correct)


def test_images_like_those_labelled_raise_no_alarm():
    assert sum(drifting_features(images(100, seed), images(300, seed + 50)) is not None for seed in range(20)) <= 1


def test_foreign_images_raise_one_alarm_that_tells_since_when():
    recent = np.concatenate([images(100, 1), images(20, 2, centre=1)])
    alarm = drifting_features(images(100, 0), recent)
    assert alarm.kind == "features"
    assert 90 <= alarm.since <= 100
    assert 100 <= alarm.raised <= 105
    assert alarm.evidence["count"] == 120 - alarm.since
    assert alarm.evidence["observed"] >= 20
    assert "more foreign to the labelled" in alarm.sentence


def test_some_foreign_images_among_many_are_seen():
    recent = images(200, 1)
    recent[::3] = images(200, 2, centre=1)[::3]
    recent[-3:] = images(3, 3, centre=1)
    assert drifting_features(images(300, 0), recent) is not None


def test_labels_chosen_to_be_unlike_each_other_raise_no_alarm():
    pool = images(800, 0)
    unit = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    chosen = [0]
    while len(chosen) < 60:
        chosen.append(int((unit @ unit[chosen].T).max(axis=1).argmin()))
    assert drifting_features(pool[chosen], images(300, 1)) is None


def test_the_alarm_of_features_ends_when_the_new_kind_is_labelled():
    labelled, foreign = images(100, 0), images(200, 1, centre=1)
    assert drifting_features(labelled, foreign[:100]) is not None
    assert drifting_features(np.concatenate([labelled, foreign[100:]]), foreign[:100]) is None


def test_few_labels_and_no_new_images_tell_nothing():
    assert drifting_features(images(LEAST_LABELS - 1, 0), images(50, 1, centre=1)) is None
    assert drifting_features(images(50, 0), np.empty((0, DIM))) is None


def test_images_sorted_by_class_raise_no_alarm_though_one_class_is_less_alike():
    tight, wide = images(300, 0), images(100, 1, centre=1)
    tight[:, 0] += 20
    assert drifting_features(np.concatenate([tight, wide]), images(200, 2, centre=1)) is None


def test_labels_that_repeat_images_raise_no_alarm_for_these():
    labelled = np.repeat(images(20, 0), 10, axis=0)
    assert drifting_features(labelled, labelled[::2]) is None


def test_thousands_of_labels_are_enough_to_see_few_foreign_images():
    assert drifting_features(images(5000, 0), images(20, 1, centre=1)).evidence["observed"] == 20


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="features"):
        drifting_features(images(50, 0), images(50, 1)[:, :5])
    with pytest.raises(ValueError, match="finite"):
        drifting_features(images(50, 0), np.full((5, DIM), np.nan))
