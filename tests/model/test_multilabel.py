import copy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from model.evaluation import Prequential
from model.multilabel import MultilabelLDA, agreement, least_clear
from model.selection import order
from model.uncertainty import margin
from model.weights import LinearWeights, Weights

NAMES = ["boat", "sea", "sun", "tree"]


def samples(count, dim=6, seed=0):
    """Sums of what each class adds, which is there or not by chance; `y` are sets of names, some of them empty."""
    random = np.random.default_rng(seed)
    there = random.random((count, len(NAMES))) < 0.4
    directions = np.random.default_rng(99).normal(size=(len(NAMES), dim)) * 2
    X = there @ directions + random.normal(size=(count, dim))
    return X, [{name for name, is_there in zip(NAMES, row, strict=True) if is_there} for row in there]


def digits(seed=0):
    """Pictures of one digit or of two laid over each other; those of 8 and 9 have no name. 1,000 to learn, 500 not."""
    X, y = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(y))
    parts = []
    for pool, count in ((shuffled[:1200], 1000), (shuffled[1200:], 500)):
        pairs = random.choice(pool, size=(count, 2))
        pairs[random.random(count) < 0.5, 1] = -1
        rows = np.array([X[pair[pair >= 0]].mean(axis=0) for pair in pairs])
        there = np.array([[(y[pair[pair >= 0]] == digit).any() for digit in range(8)] for pair in pairs])
        parts += [rows, there]
    return parts


def named(there):
    return [[str(digit) for digit in np.flatnonzero(row)] for row in there]


def assert_same(left, right, tolerance=1e-9):
    X, _ = samples(50, dim=left.n_features_in_, seed=5)
    np.testing.assert_array_equal(left.classes_, right.classes_)
    np.testing.assert_allclose(left.counts_, right.counts_, atol=1e-9)
    np.testing.assert_allclose(left.predict_proba(X), right.predict_proba(X), rtol=0, atol=tolerance)


def learner():
    """A head that is told of all classes at once, as a project tells it."""
    return MultilabelLDA().declare(NAMES)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), count=st.integers(1, 40), dim=st.integers(1, 9), seed=st.integers(0, 1000))
def test_order_and_batches_do_not_matter(data, count, dim, seed):
    X, y = samples(count, dim, seed)
    shuffled = data.draw(st.permutations(range(count)))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, count), max_size=5))), count]
    at_once = learner().partial_fit(X, y)
    piecewise = learner()
    for start, end in pairwise(cuts):
        places = shuffled[start:end]
        piecewise.partial_fit(X[places], [y[place] for place in places])
    assert_same(piecewise, at_once)


@settings(max_examples=40, deadline=None)
@given(kept=st.integers(1, 30), gone=st.integers(1, 30), dim=st.integers(1, 9), seed=st.integers(0, 1000))
def test_what_is_forgotten_leaves_no_trace(kept, gone, dim, seed):
    X, y = samples(kept + gone, dim, seed)
    head = learner().partial_fit(X, y).forget(X[kept:], y[kept:])
    assert_same(head, learner().partial_fit(X[:kept], y[:kept]), 1e-6)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 30), cut=st.integers(0, 30), seed=st.integers(0, 1000))
def test_split_and_merged_is_the_same(count, cut, seed):
    X, y = samples(count + 1, 4, seed)
    left, right = learner().partial_fit(X[:cut], y[:cut]), learner().partial_fit(X[cut:], y[cut:])
    before = copy.deepcopy(right)
    assert_same(left.merge(right), learner().partial_fit(X, y))
    if cut <= count:
        assert_same(right, before)


def test_a_corrected_set_is_learned_as_if_it_had_been_right_at_once():
    X, y = samples(30)
    head = MultilabelLDA().partial_fit(X, [{"boat", "sea"}, *y[1:]])
    head.forget(X[:1], [{"boat", "sea"}]).partial_fit(X[:1], [{"sea"}])
    assert_same(head, MultilabelLDA().partial_fit(X, [{"sea"}, *y[1:]]))


def test_all_forgotten_is_as_new_but_for_what_was_declared():
    X, y = samples(9)
    head = MultilabelLDA().partial_fit(X, y, classes=["moon"]).forget(X, y)
    assert head.classes_.tolist() == ["moon"]
    assert (head.count_, head.counts_.tolist()) == (0.0, [0.0])
    assert_same(head.partial_fit(X[:, :3], y), MultilabelLDA().partial_fit(X[:, :3], y, classes=["moon"]))


def test_a_class_that_no_sample_has_any_more_vanishes_unless_it_was_declared():
    X, _ = samples(3)
    head = MultilabelLDA().partial_fit(X, [["sea"], ["sun"], ["sea", "moon"]])
    assert head.forget(X[2:], [["sea", "moon"]]).classes_.tolist() == ["sea", "sun"]
    assert head.declare(["sun", "boat"]).forget(X[1:2], [["sun"]]).classes_.tolist() == ["boat", "sea", "sun"]
    assert head.declare(["boat"]).classes_.tolist() == ["boat", "sea"]


@pytest.mark.parametrize(
    ("X", "y"),
    [
        ([[1.0, 2.0]], [["moon"]]),
        ([[1.0, 2.0]], [["sea", "sun"]]),
        ([[9.0, 9.0]], [["sea"]]),
        ([[1.0, 2.0]] * 4, [["sea"]] * 4),
        ([[4.0, 4.0]] * 2, [[]] * 2),
    ],
)
def test_forgetting_what_was_never_learned_is_refused_and_changes_nothing(X, y):
    head = MultilabelLDA().partial_fit([[1.0, 2.0], [4.0, 4.0], [2.0, 1.0]], [["sea"], [], ["sea"]], classes=["sun"])
    before = copy.deepcopy(head)
    with pytest.raises(ValueError, match="forgotten"):
        head.forget(X, y)
    assert_same(head, before, 0)


def test_none_of_them_is_learned():
    X, y = samples(60)
    head = MultilabelLDA().partial_fit(X, y)
    before = head.predict_proba([[0.0] * 6])
    head.partial_fit(np.random.default_rng(1).normal(size=(60, 6)) * 0.1, [[]] * 60)
    assert head.count_ == 120
    assert (head.predict_proba([[0.0] * 6]) < before).all()


def test_people_who_disagree_teach_each_class_to_its_share():
    X, y = samples(40)
    twice = np.concatenate([X[:1], X])
    head = MultilabelLDA().partial_fit(twice, [["sea"], ["sea", "sun"], *y[1:]], sample_weight=[0.5] * 2 + [1.0] * 39)
    assert head.count_ == pytest.approx(40)
    in_others = MultilabelLDA().declare(NAMES).partial_fit(X[1:], y[1:]).counts_
    np.testing.assert_allclose(head.counts_ - in_others, [0, 1, 0.5, 0], atol=1e-12)


def test_a_weight_of_two_is_learning_twice_and_of_zero_none():
    X, y = samples(12)
    weight = [2.0, 0.0] + [1.0] * 10
    again = np.concatenate([X[:1], X[:1], X[2:]])
    expected = MultilabelLDA().partial_fit(again, [y[0], y[0], *y[2:]], classes=NAMES)
    assert_same(MultilabelLDA().partial_fit(X, y, classes=NAMES, sample_weight=weight), expected)


@pytest.mark.parametrize("count", [1, 5, 50])
def test_what_was_never_there_or_always_is_only_as_sure_as_its_count(count):
    X, _ = samples(count)
    head = MultilabelLDA().partial_fit(X, [["sea"]] * count, classes=["moon"])
    expected = [1 / (count + 2), (count + 1) / (count + 2)]
    np.testing.assert_allclose(head.predict_proba(X * 3), np.tile(expected, (count, 1)))


def test_probabilities_of_one_class_do_not_depend_on_which_others_exist():
    X, y = samples(80)
    alone = MultilabelLDA().partial_fit(X, [present & {"sea"} for present in y], classes=["sea"])
    beside = MultilabelLDA().partial_fit(X, y, classes=["moon"])
    # They borrow from each other how far a class may lie from the others, less the more labels they have.
    gap = np.abs(alone.predict_proba(X)[:, 0] - beside.predict_proba(X)[:, beside.classes_.tolist().index("sea")])
    assert gap.max() < 0.1


def test_several_classes_can_be_sure_at_once_and_none_too():
    X, y = samples(2000)
    probabilities = MultilabelLDA().partial_fit(X, y).predict_proba(X)
    assert probabilities.sum(axis=1).max() > 3
    assert probabilities.sum(axis=1).min() < 0.5


def test_weights_can_be_asked_for_other_classes_in_any_order_and_saved():
    X, y = samples(40)
    head = MultilabelLDA().partial_fit(X, y)
    weights = head.weights(["tree", "moon", "sea"])
    probabilities = weights.predict_proba(X)
    whole = head.predict_proba(X)
    np.testing.assert_allclose(probabilities[:, 1], 1 / 42)
    # Classes that are left out no longer lend; those that stay are all but the same.
    np.testing.assert_allclose(probabilities[:, [0, 2]], whole[:, [3, 1]], atol=0.1)
    saved = Weights.from_bytes(weights.to_bytes())
    np.testing.assert_array_equal(saved.predict_proba(X), probabilities)
    assert saved.classes.tolist() == ["tree", "moon", "sea"]


def test_independent_probabilities_of_logits_of_any_size_are_safe_and_reserve_nothing():
    values = {"intercept": np.zeros(2), "temperature": 1.0, "link": "sigmoid"}
    weights = LinearWeights(np.array(["sea", "sun"]), np.array([[1e5], [-1e5]]), reserved=np.zeros(2), **values)
    np.testing.assert_array_equal(weights.predict_proba([[1.0], [0.0], [-1.0]]), [[1, 0], [0.5, 0.5], [0, 1]])
    with pytest.raises(ValueError, match="reserve none"):
        LinearWeights(np.array(["sea", "sun"]), np.zeros((2, 1)), reserved=np.array([0.1, 0.0]), **values)


@pytest.mark.parametrize("rows", [np.zeros((6, 3)), np.ones((6, 3)), np.full((6, 3), 1e-30), np.full((6, 3), 1e30)])
def test_samples_that_are_all_alike_or_tiny_or_huge_are_no_trouble(rows):
    head = MultilabelLDA().partial_fit(rows, [["sea"], ["sea"], ["sea"], [], [], []])
    np.testing.assert_allclose(head.predict_proba(rows), 0.5)


def test_noise_is_answered_with_flat_probabilities():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 200)), [["sea"] if number % 3 == 0 else [] for number in range(60)]
    probabilities = MultilabelLDA().partial_fit(X, y).predict_proba(random.normal(size=(200, 200)))
    assert np.abs(probabilities - 1 / 3).mean() < 0.15


@pytest.mark.parametrize("count", [50, 200, 1000])
def test_it_ranks_no_worse_than_a_refit_and_is_calibrated(count):
    losses, refit_losses, gaps = [], [], []
    for seed in range(3):
        X, there, X_test, there_test = digits(seed)
        head = MultilabelLDA().partial_fit(X[:count], named(there[:count]), classes=[str(digit) for digit in range(8)])
        probabilities = head.predict_proba(X_test)
        refit = np.stack(
            [
                LogisticRegression(max_iter=1000).fit(X[:count], column[:count]).predict_proba(X_test)[:, 1]
                for column in there.T
            ],
            axis=1,
        )
        losses.append(-np.log(agreement(probabilities, there_test)[0]).mean())
        refit_losses.append(-np.log(agreement(refit, there_test)[0]).mean())
        places = np.minimum((probabilities * 15).astype(int), 14).ravel()
        off = np.bincount(places, probabilities.ravel(), 15) - np.bincount(places, there_test.ravel(), 15)
        gaps.append(np.abs(off).sum() / probabilities.size)
    assert np.mean(losses) < np.mean(refit_losses)
    assert np.mean(gaps) < 0.05


def test_labels_sorted_by_class_are_learned_as_well_as_shuffled_ones():
    X, there, X_test, _ = digits()
    sorted_by_first = np.argsort(there.argmax(axis=1), kind="stable")
    head, shuffled = MultilabelLDA(), MultilabelLDA().partial_fit(X, named(there))
    for place in sorted_by_first:
        head.partial_fit(X[[place]], named(there[[place]]))
    np.testing.assert_allclose(head.predict_proba(X_test), shuffled.predict_proba(X_test), atol=1e-7)


@pytest.mark.parametrize(
    ("X", "y", "options", "sentence"),
    [
        ([[1.0]], ["sea"], {}, "as a list of names, not as 'sea'"),
        ([[1.0]], [7], {}, "as a list of names, not as 7"),
        ([[1.0]], [[7]], {}, "by a text"),
        ([[1.0]], [[""]], {}, "by a text"),
        ([[1.0]], [["sea"], []], {}, "1 samples, but y tells of 2"),
        ([[1.0], [float("nan")]], [["sea"], []], {}, "not finite"),
        ([[1.0, 2.0]], [["sea"]], {}, "2 features, but 1 were learned"),
        ([[1.0]], [["sea"]], {"sample_weight": [-1.0]}, "none of them negative"),
        ([[1.0]], [["sea"]], {"classes": [1, 2]}, "named by texts"),
    ],
)
def test_wrong_input_is_refused_with_a_sentence_and_changes_nothing(X, y, options, sentence):
    head = MultilabelLDA().partial_fit([[1.0], [3.0]], [["sea"], []])
    before = copy.deepcopy(head.__dict__)
    with pytest.raises(ValueError, match=sentence):
        head.partial_fit(X, y, **options)
    assert head.__dict__.keys() == before.keys()
    assert (head.count_, head.classes_.tolist(), head.counts_.tolist()) == (2.0, ["sea"], [1.0])


def test_before_anything_is_learned_there_is_nothing_to_predict():
    with pytest.raises(NotFittedError):
        MultilabelLDA().declare(["sea"]).predict_proba([[1.0]])


def test_parameters_are_kept_by_a_clone():
    head = MultilabelLDA(shrinkage=0.5, heat=2.0).partial_fit([[1.0]], [["sea"]])
    assert clone(head).get_params() == {"shrinkage": 0.5, "heat": 2.0}
    assert not hasattr(clone(head), "classes_")


def test_heat_draws_probabilities_towards_how_often_a_class_is_there():
    X, y = samples(200)
    spread = [np.ptp(MultilabelLDA(heat=heat).partial_fit(X, y).predict_proba(X)) for heat in (0.5, 1, 4)]
    assert spread[0] > spread[1] > spread[2]


def test_the_least_clear_class_decides_what_is_asked():
    probabilities = [[0.99, 0.9], [0.45, 0.01], [0.99, 0.99]]
    np.testing.assert_allclose(margin(least_clear(probabilities)), [0.8, 0.1, 0.98])
    assert order(least_clear(probabilities), np.eye(3)).argmin() == 1


def test_agreement_is_what_prequential_evaluation_counts():
    prequential = Prequential()
    for probability, right in zip(*agreement([[0.8, 0.8], [1.0, 0.0]], [[True, False], [False, True]]), strict=True):
        prequential.add(float(probability), bool(right))
    assert prequential.accuracy == 0.0
    assert prequential.log_loss == pytest.approx((-np.log(0.4) - np.log(1e-6)) / 2)


@pytest.mark.parametrize("proba", [[0.5], [[]], [[0.5], [0.5]]])
def test_agreement_of_other_shapes_is_refused(proba):
    with pytest.raises(ValueError, match="for each class of each sample"):
        agreement(proba, [[True, False]])
