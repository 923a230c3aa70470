"""The forecast of what the next labels bring: near what they then bring, and no surer than it can be."""

from __future__ import annotations

import numpy as np
import pytest

from model.head import StreamingLDA
from model.stopping import forecast

AHEAD = 100


def samples(count, seed, classes=4, dim=24, distance=0.6):
    """Return samples of Gaussian classes that overlap, so that more labels keep helping."""
    centres = np.random.default_rng(7).normal(size=(classes, dim)) * distance
    random = np.random.default_rng(seed)
    y = random.integers(classes, size=count)
    return random.normal(size=(count, dim)) + centres[y], y


@pytest.fixture(scope="module")
def forecasts():
    """Return, for each seed, the forecast after 100 labels, and what 100 more then bring on 4,000 others."""
    X_test, y_test = samples(4000, seed=1000)
    found = []
    for seed in range(20):
        X, y = samples(100 + AHEAD, seed)
        before, after = (np.mean(StreamingLDA().fit(X[:n], y[:n]).predict(X_test) == y_test) for n in (100, len(X)))
        found.append((forecast(X[:100], y[:100], AHEAD), before, after - before))
    return found


def test_its_interval_holds_the_gain_about_as_often_as_it_says(forecasts):
    held = [one.interval[0] <= gain <= one.interval[1] for one, _, gain in forecasts]
    assert sum(held) >= 16


def test_its_gain_is_right_on_the_mean(forecasts):
    assert np.mean([one.gain - gain for one, _, gain in forecasts]) == pytest.approx(0, abs=0.02)


def test_its_accuracy_is_that_on_new_samples(forecasts):
    assert np.mean([one.accuracy - before for one, before, _ in forecasts]) == pytest.approx(0, abs=0.03)


def test_it_promises_less_the_more_labels_there_are():
    X, y = samples(800, seed=0)
    gains = [forecast(X[:count], y[:count], AHEAD).gain for count in (50, 200, 800)]
    assert gains == sorted(gains, reverse=True)


def test_it_promises_more_for_more_labels():
    X, y = samples(100, seed=0)
    assert forecast(X, y, ahead=10).gain < forecast(X, y, ahead=100).gain < forecast(X, y, ahead=1000).gain


def test_only_the_tested_tell_the_accuracy():
    X, y = samples(200, seed=0, distance=2.0)
    hard = np.arange(len(y)) % 4 == 0
    y[hard] = np.random.default_rng(1).integers(4, size=hard.sum())
    assert forecast(X, y, tested=hard).accuracy < 0.5 < 0.8 < forecast(X, y, tested=~hard).accuracy


def test_it_is_less_sure_when_few_are_tested():
    X, y = samples(200, seed=0)
    few, all_of_them = (forecast(X, y, tested=np.arange(len(y)) % step == 0).interval for step in (20, 1))
    assert few[1] - few[0] > all_of_them[1] - all_of_them[0]


def test_where_nothing_was_missed_it_does_not_claim_that_nothing_will_be():
    X, y = samples(60, seed=0, distance=9.0)
    found = forecast(X, y)
    assert 0.95 < found.accuracy < 1
    assert found.interval[0] < found.gain < found.interval[1] < 0.1


@pytest.mark.parametrize(
    ("count", "classes", "tested"), [(39, 4, slice(None)), (100, 1, slice(None)), (100, 4, slice(0))]
)
def test_it_says_nothing_with_too_little_to_go_by(count, classes, tested):
    X, y = samples(count, seed=0, classes=classes)
    mask = np.zeros(count, dtype=bool)
    mask[tested] = True
    assert forecast(X, y, tested=mask) is None


def test_it_leaves_the_head_as_it_is_and_says_the_same_again():
    X, y = samples(60, seed=0)
    head = StreamingLDA(shrinkage=2.0).partial_fit(X, y)
    before = head.predict_proba(X)
    assert forecast(X, y, head=head) == forecast(X, y, head=head)
    assert np.array_equal(head.predict_proba(X), before)


@pytest.mark.parametrize(
    "change",
    [{"y": [0, 1]}, {"tested": [True]}, {"tested": np.ones(60)}, {"ahead": 0}, {"X": np.full((60, 24), np.nan)}],
)
def test_it_refuses_what_is_not_labelled_tasks(change):
    X, y = samples(60, seed=0)
    with pytest.raises(ValueError, match=r"\w"):
        forecast(**({"X": X, "y": y} | change))
