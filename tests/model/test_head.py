import copy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError

from model.evaluation import accuracy, expected_calibration_error, log_loss
from model.head import StreamingLDA, log_prior, signal_share
from model.weights import signed_root

CLASSES = np.array(["angry", "happy", "sad", "surprise"])


def samples(count, dim=6, seed=0, classes=CLASSES):
    """Samples around a mean per class, in no order."""
    random = np.random.default_rng(seed)
    y = random.integers(len(classes), size=count)
    means = np.random.default_rng(99).normal(size=(len(classes), dim)) * 2
    return means[y] + random.normal(size=(count, dim)), classes[y]


def digits():
    """The handwritten digits that come with scikit-learn: 1,297 to learn and 500 to test, labels as names."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], np.array([f"digit {label}" for label in y[order]])
    return X[500:], y[500:], X[:500], y[:500]


def assert_same(left, right, tolerance=1e-9):
    X, _ = samples(50, dim=left.n_features_in_, seed=5)
    np.testing.assert_array_equal(left.classes_, right.classes_)
    np.testing.assert_allclose(left.predict_proba(X), right.predict_proba(X), rtol=0, atol=tolerance)


def parts(count):
    """Ways to cut a sequence into batches."""
    return st.lists(st.integers(0, count), max_size=5).map(lambda cuts: [0, *sorted(cuts), count])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 40), dim=st.integers(1, 9), seed=st.integers(0, 1000))
def test_order_and_batches_do_not_matter(data, count, dim, seed):
    X, y = samples(count, dim, seed)
    order = data.draw(st.permutations(range(count)))
    cuts = data.draw(parts(count))
    at_once = StreamingLDA().partial_fit(X, y)
    piecewise = StreamingLDA()
    for start, end in pairwise(cuts):
        piecewise.partial_fit(X[order[start:end]], y[order[start:end]])
    one_by_one = StreamingLDA()
    for place in order:
        one_by_one.partial_fit(X[[place]], y[[place]])
    assert_same(piecewise, at_once)
    assert_same(one_by_one, at_once)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 40), cut=st.integers(0, 40), dim=st.integers(1, 9), seed=st.integers(0, 1000))
def test_split_and_merged_is_the_same(count, cut, dim, seed):
    X, y = samples(count, dim, seed)
    at_once = StreamingLDA().partial_fit(X, y)
    halves = [StreamingLDA().partial_fit(X[part], y[part]) for part in (slice(cut), slice(cut, None))]
    before = copy.deepcopy(halves[1])
    assert_same(halves[0].merge(halves[1]), at_once)
    if len(X[cut:]):
        assert_same(halves[1], before, tolerance=0)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kept=st.integers(1, 30), gone=st.integers(1, 30), seed=st.integers(0, 1000))
def test_what_is_forgotten_leaves_no_trace(data, kept, gone, seed):
    X, y = samples(kept + gone, seed=seed)
    weight = np.random.default_rng(seed).uniform(0.1, 3, kept + gone)
    head = StreamingLDA()
    for place in data.draw(st.permutations(range(kept + gone))):
        head.partial_fit(X[[place]], y[[place]], sample_weight=weight[[place]])
    for place in data.draw(st.permutations(range(kept, kept + gone))):
        head.forget(X[[place]], y[[place]], sample_weight=weight[[place]])
    assert_same(head, StreamingLDA().partial_fit(X[:kept], y[:kept], sample_weight=weight[:kept]))


def test_real_features_forgotten_leave_no_trace():
    X, y, unseen, _ = digits()
    head = StreamingLDA().partial_fit(X[:300], y[:300])
    before = head.predict_proba(unseen)
    head.partial_fit(X[300:], y[300:]).forget(X[300:], y[300:])
    np.testing.assert_allclose(head.predict_proba(unseen), before, rtol=0, atol=1e-9)


def test_all_forgotten_is_as_new():
    X, y = samples(20)
    head = StreamingLDA().partial_fit(X, y)
    head.forget(X[:7], y[:7]).forget(X[7:], y[7:])
    assert len(head.classes_) == 0
    assert not hasattr(head, "n_features_in_")
    with pytest.raises(NotFittedError):
        head.weights()
    assert_same(head.partial_fit(X[:, :3], y), StreamingLDA().partial_fit(X[:, :3], y), tolerance=0)


def test_a_class_that_is_forgotten_vanishes_unless_it_was_declared():
    X, y = samples(20)
    head = StreamingLDA().partial_fit(X, y).partial_fit(X[:1], ["bored"])
    assert "bored" in head.classes_
    assert "bored" not in head.forget(X[:1], ["bored"]).classes_
    head.partial_fit(X[:1], ["bored"], classes=["bored"]).forget(X[:1], ["bored"])
    assert "bored" in head.classes_


def test_all_forgotten_keeps_what_was_declared():
    X, y = samples(20)
    head = StreamingLDA().partial_fit(X, y, classes=["bored", "happy"]).forget(X, y)
    np.testing.assert_array_equal(head.predict_proba(X[:1]), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("X", "y", "weight"),
    [
        (np.zeros((1, 6)), ["bored"], None),
        (np.full((1, 6), 1e3), ["happy"], None),
        (np.zeros((1, 6)), ["happy"], [100.0]),
        (np.zeros((1, 6)), ["single"], None),
    ],
    ids=["class", "features", "weight", "last of its class"],
)
def test_forgetting_what_was_never_learned_is_refused_and_changes_nothing(X, y, weight):
    head = StreamingLDA().partial_fit(*samples(20)).partial_fit(np.ones((1, 6)), ["single"])
    before = copy.deepcopy(head)
    with pytest.raises(ValueError, match=r"never learned|not learned"):
        head.forget(X, y, sample_weight=weight)
    assert_same(head, before, tolerance=0)


def test_forgetting_before_learning_is_refused():
    with pytest.raises(ValueError, match="never learned"):
        StreamingLDA().forget([[1.0]], ["happy"])


def test_a_weight_of_two_is_learning_twice():
    X, y = samples(20)
    twice = StreamingLDA().partial_fit(X, y).partial_fit(X, y)
    assert_same(StreamingLDA().partial_fit(X, y, sample_weight=np.full(20, 2.0)), twice)


def test_a_weight_of_zero_is_not_learning():
    X, y = samples(20)
    head = StreamingLDA().partial_fit(X, y)
    assert_same(copy.deepcopy(head).partial_fit(X[:1] + 9, ["bored"], sample_weight=[0.0]), head, tolerance=0)


def test_without_shrinkage_and_with_many_samples_it_is_the_textbook_discriminant_of_the_roots():
    X, y = samples(20_000)
    weights = StreamingLDA(shrinkage=0.0).fit(X, y).weights()
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(signed_root(X), y)
    logits = signed_root(X[:500]) @ theirs.coef_.T + theirs.intercept_
    ours = (
        signed_root(X[:500]) @ weights.coef.T
        + weights.intercept
        - (weights.temperature - 1) * log_prior(np.unique(y, return_counts=True)[1].astype(float))
    )
    np.testing.assert_allclose(ours - ours[:, :1], logits - logits[:, :1], atol=0.05)


def test_a_class_mean_of_one_sample_is_believed_less_than_one_of_many():
    share = signal_share(np.array([1.0, 20.0, 400.0]), np.array([8.0, 8.0, 8.0]), 10.0)
    assert (np.diff(share) > 0).all()
    assert share[0] < 0.95 < share[2]


def test_class_means_that_only_noise_sets_apart_are_drawn_together():
    counts, noise = np.full(50, 4.0), 10.0
    squares = noise / counts
    assert signal_share(counts, squares, noise).max() < 0.2
    np.testing.assert_allclose(signal_share(counts, squares + 10.0, noise), 10.2 / 12.7, atol=0.02)


def test_counts_that_chance_explains_do_not_make_a_class_rare():
    np.testing.assert_allclose(np.exp(log_prior(np.array([4.0, 9.0, 7.0, 0.0]))), [1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(np.exp(log_prior(np.array([1000.0, 3000.0, 0.0]))), [0.25, 0.75, 0], atol=0.002)
    rare = [np.exp(log_prior(np.array([count, 4 * count])))[0] for count in (1.0, 3.0, 10.0, 100.0)]
    assert rare == sorted(rare, reverse=True)


def test_new_classes_may_appear_at_any_time():
    X, y = samples(60)
    head = StreamingLDA().partial_fit(X[:5], y[:5])
    for label in CLASSES:
        head.partial_fit(X[y == label][:10], y[y == label][:10])
    np.testing.assert_array_equal(head.classes_, CLASSES)
    assert (head.predict(X) == y).mean() > 0.9


def test_names_of_any_length_and_numbers_are_classes():
    X, y = samples(20, classes=np.array([3, 1, 7]))
    assert StreamingLDA().partial_fit(X, y).predict(X).dtype.kind == "i"
    head = StreamingLDA().partial_fit(X[:1], ["a"]).partial_fit(X[:1], ["a much longer name"])
    assert head.classes_.tolist() == ["a", "a much longer name"]


def test_names_and_numbers_do_not_mix():
    head = StreamingLDA().partial_fit([[1.0, 2.0]], ["one"])
    with pytest.raises(ValueError, match="one kind"):
        head.partial_fit([[1.0, 2.0]], [2])
    assert head.classes_.tolist() == ["one"]


@pytest.mark.parametrize("count", [1, 5, 50])
def test_one_class_seen_of_seven_is_not_certain(count):
    X, _ = samples(count)
    head = StreamingLDA().partial_fit(X, ["happy"] * count, classes=[*CLASSES, "disgust", "fear", "neutral"])
    probabilities = head.predict_proba(X[:1])[0]
    seen = probabilities[head.classes_.tolist().index("happy")]
    assert seen == pytest.approx((count + 1) / (count + 7))
    assert probabilities.sum() == pytest.approx(1)
    assert np.unique(np.delete(probabilities, head.classes_.tolist().index("happy"))).size == 1


def test_one_class_known_is_certain():
    X, _ = samples(3)
    assert StreamingLDA().partial_fit(X, ["happy"] * 3).predict_proba(X).tolist() == [[1.0]] * 3


def test_before_any_label_declared_classes_are_equal():
    head = StreamingLDA().declare(CLASSES)
    np.testing.assert_array_equal(head.predict_proba([[1.0, 2.0]]), [[0.25] * 4])


def test_without_any_class_there_is_nothing_to_predict():
    with pytest.raises(NotFittedError):
        StreamingLDA().predict_proba([[1.0]])


def test_two_labels_say_little_of_other_images():
    X = np.random.default_rng(0).normal(size=(100, 500))
    head = StreamingLDA().partial_fit(X[:2], ["happy", "sad"], classes=CLASSES)
    assert head.predict_proba(X[2:]).max(axis=1).mean() < 0.45


@pytest.mark.parametrize("rows", [[[1.0, 2.0]] * 4, [[0.0, 0.0]] * 4, [[1e-9, 0.0], [0.0, 1e-9]] * 2, [[1e9, 5.0]] * 4])
def test_samples_that_are_all_alike_or_tiny_or_huge_are_no_trouble(rows):
    probabilities = StreamingLDA().partial_fit(rows, ["happy", "sad", "happy", "sad"]).predict_proba(rows)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_identical_samples_of_two_classes_are_undecided():
    probabilities = StreamingLDA().partial_fit([[1.0, 2.0]] * 4, ["happy", "sad"] * 2).predict_proba([[1.0, 2.0]])
    np.testing.assert_allclose(probabilities, 0.5, atol=1e-6)


def test_declaring_replaces_what_was_declared_and_keeps_what_was_learned():
    X, y = samples(20)
    head = StreamingLDA().partial_fit(X, y, classes=["bored"]).declare(["tired"])
    assert set(head.classes_) == {*CLASSES, "tired"}


def test_weights_can_be_asked_for_other_classes_in_any_order():
    X, y = samples(40)
    head = StreamingLDA().partial_fit(X, y)
    weights = head.weights(["sad", "bored", "happy"])
    probabilities = weights.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    sad_and_happy = head.predict_proba(X)[:, [2, 1]]
    ratio = probabilities[:, [0, 2]] / probabilities[:, [0, 2]].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ratio, sad_and_happy / sad_and_happy.sum(axis=1, keepdims=True), atol=1e-9)
    labels = np.isin(y, ["sad", "happy"]).sum()
    np.testing.assert_allclose(probabilities[:, 1], 1 / (labels + 3))


def test_weights_change_with_what_is_learned_and_with_the_parameters():
    X, y = samples(40)
    head = StreamingLDA().partial_fit(X[:20], y[:20])
    first = head.weights()
    assert head.weights() is first
    second = head.partial_fit(X[20:], y[20:]).weights()
    assert second is not first
    third = head.set_params(heat=5.0).weights()
    assert third.temperature == pytest.approx(5 * second.temperature)
    assert not np.allclose(third.predict_proba(X), second.predict_proba(X))


@pytest.mark.parametrize(
    ("X", "y", "options", "sentence"),
    [
        ([1.0, 2.0], ["happy"], {}, "table"),
        ([[1.0, np.nan]], ["happy"], {}, "not finite"),
        ([[1.0, np.inf]], ["happy"], {}, "not finite"),
        ([[1.0, -1e200]], ["happy"], {}, "scale the features"),
        ([[1.0, 2.0]], ["happy", "sad"], {}, "1 samples, but y has 2"),
        ([[1.0, 2.0, 3.0]], ["happy"], {}, "3 features, but 2"),
        ([[1.0, 2.0]], [["happy"]], {}, "y must be a list"),
        ([[1.0, 2.0]], [0.5], {}, "y must be a list"),
        ([[1.0, 2.0]], [None], {}, "y must be a list"),
        ([[1.0, 2.0]], ["happy"], {"sample_weight": [-1.0]}, "sample_weight"),
        ([[1.0, 2.0]], ["happy"], {"sample_weight": [np.nan]}, "sample_weight"),
        ([[1.0, 2.0]], ["happy"], {"sample_weight": [1.0, 1.0]}, "sample_weight"),
        ([[1.0, 2.0]], ["happy"], {"classes": [1, 2]}, "one kind"),
    ],
)
def test_wrong_input_is_refused_with_a_sentence_and_changes_nothing(X, y, options, sentence):
    head = StreamingLDA().partial_fit([[1.0, 2.0], [3.0, 4.0]], ["happy", "sad"])
    before = copy.deepcopy(head)
    with pytest.raises(ValueError, match=sentence):
        head.partial_fit(X, y, **options)
    np.testing.assert_array_equal(head.predict_proba([[1.0, 2.0]]), before.predict_proba([[1.0, 2.0]]))
    np.testing.assert_array_equal(head.classes_, before.classes_)


@pytest.mark.parametrize("X", [[1.0, 2.0], [[1.0]], [[1.0, np.nan]]])
def test_predicting_from_wrong_input_is_refused(X):
    head = StreamingLDA().partial_fit([[1.0, 2.0], [3.0, 4.0]], ["happy", "sad"])
    with pytest.raises(ValueError, match="X "):
        head.predict_proba(X)


def test_heads_of_other_features_do_not_merge():
    head = StreamingLDA().partial_fit([[1.0, 2.0]], ["happy"])
    with pytest.raises(ValueError, match="learned 1 features, this one 2"):
        head.merge(StreamingLDA().partial_fit([[1.0]], ["happy"]))


def test_it_keeps_scikit_learns_contract():
    X, y = samples(50)
    head = clone(StreamingLDA(shrinkage=3.0, heat=7.0))
    assert head.get_params() == {"heat": 7.0, "shrinkage": 3.0}
    assert head.fit(X[:10], y[:10]).fit(X, y).score(X, y) > 0.8
    assert_same(head, StreamingLDA(shrinkage=3.0, heat=7.0).partial_fit(X, y), tolerance=0)


def test_labels_sorted_by_class_are_learned_as_well_as_shuffled_ones():
    X, y, unseen, truth = digits()
    by_class = np.argsort(y, kind="stable")
    head = StreamingLDA()
    for batch in np.array_split(by_class, 40):
        head.partial_fit(X[batch], y[batch])
    assert (head.predict(unseen) == truth).mean() > 0.93


@pytest.mark.parametrize(("count", "least", "most"), [(20, 0.55, 0.25), (100, 0.85, 0.12), (1000, 0.93, 0.06)])
def test_it_is_accurate_and_calibrated_from_few_labels_on(count, least, most):
    X, y, unseen, truth = digits()
    head = StreamingLDA().partial_fit(X[:count], y[:count], classes=np.unique(y))
    probabilities, columns = head.predict_proba(unseen), np.searchsorted(head.classes_, truth)
    assert accuracy(probabilities, columns) > least
    assert expected_calibration_error(probabilities, columns) < most
    assert log_loss(probabilities, columns) < np.log(10)


def test_noise_is_answered_with_flat_probabilities():
    sureness = []
    for seed in range(5):
        random = np.random.default_rng(seed)
        X, y = random.normal(size=(60, 300)), CLASSES[random.integers(4, size=60)]
        unseen = random.normal(size=(500, 300))
        sureness.append(StreamingLDA().partial_fit(X, y).predict_proba(unseen).max(axis=1).mean())
    assert np.mean(sureness) < 0.35
