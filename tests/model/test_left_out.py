import numpy as np
import pytest

from model.head import StreamingLDA
from model.left_out import leave_one_out


def samples(count, dim, classes, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(classes, size=count)
    return random.normal(size=(classes, dim))[y] + random.normal(size=(count, dim)), y


def learned(X, y, weight=None, classes=()):
    return StreamingLDA().declare(np.array(classes, dtype=int)).partial_fit(X, y, sample_weight=weight)


def refitted(head, X, y, weight, groups):
    """The same by learning all others anew, at the head's own shrinkage and temperature."""
    temperature, rows = head.weights().temperature, []
    for place, group in enumerate(groups):
        kept = groups != group
        other = StreamingLDA(shrinkage=head.shrinkage).declare(head.classes_)
        if kept.any():
            other.partial_fit(X[kept], y[kept], sample_weight=weight[kept])
            other.set_params(heat=temperature / other.weights().temperature)
        rows.append(other.predict_proba(X[[place]])[0])
    return np.array(rows)


@pytest.mark.parametrize(
    ("count", "dim", "classes"), [(2, 5, 2), (5, 4, 1), (7, 12, 5), (30, 60, 5), (35, 60, 5), (60, 8, 4), (40, 3, 25)]
)
@pytest.mark.parametrize("shrinkage", [0.25, 2.0])
def test_leaving_one_out_is_learning_all_others_anew(count, dim, classes, shrinkage):
    X, y = samples(count, dim, classes)
    weight = np.random.default_rng(1).uniform(0.2, 2, count)
    head = learned(X, y, weight, range(classes + 1)).set_params(shrinkage=shrinkage)
    expected = refitted(head, X, y, weight, np.arange(count))
    np.testing.assert_allclose(leave_one_out(head, X, y, weight), expected, rtol=0, atol=1e-9)


def test_copies_of_a_picture_are_left_out_together_also_when_they_are_labelled_differently():
    X, y = samples(40, 6, 4)
    X[10:20], X[20:23] = X[:10], X[3]
    weight = np.random.default_rng(1).uniform(0.2, 2, 40)
    head = learned(X, y, weight, range(4))
    pictures = np.unique(X, axis=0, return_inverse=True)[1].reshape(-1)
    expected = refitted(head, X, y, weight, pictures)
    np.testing.assert_allclose(leave_one_out(head, X, y, weight), expected, rtol=0, atol=1e-9)
    assert np.abs(leave_one_out(head, X, y, weight, groups=np.arange(40)) - expected).max() > 0.05


def test_samples_of_a_group_are_left_out_together():
    X, y = samples(40, 6, 4)
    groups = np.random.default_rng(1).integers(9, size=40)
    head = learned(X, y, classes=range(4))
    expected = refitted(head, X, y, np.ones(40), groups)
    named = np.array([f"burst {group}" for group in groups])
    np.testing.assert_allclose(leave_one_out(head, X, y, groups=named), expected, rtol=0, atol=1e-9)


def test_a_class_without_other_samples_counts_as_never_labelled():
    X, y = samples(20, 6, 3)
    head = learned(np.vstack([X, X[:1] + 1]), np.append(y, 3))
    left_out = leave_one_out(head, np.vstack([X, X[:1] + 1]), np.append(y, 3))
    assert left_out[-1, 3] == pytest.approx(1 / 24)


def test_some_of_the_learned_samples_can_be_left_out_alone():
    X, y = samples(50, 20, 3)
    head = learned(X, y)
    for some in (slice(10, 20), slice(0, 1)):
        np.testing.assert_allclose(leave_one_out(head, X[some], y[some]), leave_one_out(head, X, y)[some], atol=1e-12)


@pytest.mark.parametrize(
    ("X", "y", "options", "sentence"),
    [
        (np.ones((2, 6)), [0], {}, "class and a weight for each"),
        (np.ones((1, 6)), [9], {}, "never learned"),
        (np.ones((99, 6)), [0] * 99, {}, "more of these samples"),
        (np.ones((1, 6)), [0], {"sample_weight": [-1.0]}, "negative"),
        (np.ones((1, 6)), [0], {"groups": [1, 2]}, "group for each"),
        (np.ones((1, 5)), [0], {}, "5 features"),
    ],
)
def test_samples_that_can_not_have_been_learned_are_refused(X, y, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        leave_one_out(learned(*samples(50, 6, 3)), X, y, **options)
