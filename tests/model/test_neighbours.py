import copy
from dataclasses import replace

import numpy as np
import pytest

from model import neighbours
from model.head import StreamingLDA
from model.neighbours import learn_from_pool, neighbour_graph


def blobs(names=("cat", "dog"), count=300, dim=5, seed=0):
    """A round cloud of samples for each class, close enough for a single label to mislead."""
    random = np.random.default_rng(seed)
    members = np.arange(count) % len(names)
    X = random.normal(size=(count, dim))
    X[np.arange(count), members] += 4
    return X.astype(np.float32), np.array(names)[members]


def accuracy(weights, X, y):
    return float((weights.predict(X) == y).mean())


def test_neighbours_are_those_most_alike():
    X, _ = blobs()
    graph = neighbour_graph(X)
    unit = graph.features / np.linalg.norm(graph.features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    linked = graph.links.toarray() > 0
    for row in range(0, 300, 50):
        assert set(np.argsort(-cosines[row])[:20]) <= set(np.flatnonzero(linked[row]))
    assert (linked == linked.T).all()
    assert not linked.diagonal().any()


def test_a_large_pool_is_sampled_and_the_sample_repeats_for_a_seed(monkeypatch):
    monkeypatch.setattr(neighbours, "SAMPLE", 40)
    X, _ = blobs()
    graph = neighbour_graph(X.astype(np.float16), random_state=3)
    assert graph.links.shape == (40, 40)
    np.testing.assert_array_equal(graph.features, neighbour_graph(X.astype(np.float16), random_state=3).features)
    assert {row.tobytes() for row in graph.features} <= {row.tobytes() for row in X.astype(np.float16).astype("f4")}
    assert (graph.features != neighbour_graph(X.astype(np.float16)).features).any()


def test_few_labels_are_worth_more_with_the_pool_also_for_images_outside_it():
    X, y = blobs()
    new, true = blobs(seed=1)
    graph = neighbour_graph(X)
    alone, helped = [], []
    for seed in range(10):
        labelled = np.random.default_rng(seed).integers(150) * 2 + [0, 1]
        head = StreamingLDA().partial_fit(X[labelled], y[labelled], classes=["cat", "dog"])
        alone.append(accuracy(head.weights(), new, true))
        helped.append(accuracy(learn_from_pool(graph, X[labelled], y[labelled]).weights(head), new, true))
    assert np.mean(helped) > np.mean(alone) + 0.05


def test_the_pool_is_not_trusted_where_neighbours_share_no_class():
    X, y = blobs()
    shuffled = np.random.default_rng(0).permutation(y)
    graph = neighbour_graph(X)
    labelled = np.random.default_rng(1).permutation(300)[:100]
    assert learn_from_pool(graph, X[labelled], shuffled[labelled]).trust < 0.25
    assert learn_from_pool(graph, X[labelled], y[labelled]).trust > 0.8


def test_with_lessons_not_trusted_the_head_serves_alone():
    X, y = blobs()
    head = StreamingLDA().partial_fit(X[::29], y[::29])
    lessons = learn_from_pool(neighbour_graph(X), X[::29], y[::29])
    assert replace(lessons, trust=0.0).weights(head) is head.weights()


def test_the_weights_are_the_geometric_mean_of_both_heads_at_one_temperature():
    X, y = blobs()
    head = StreamingLDA().partial_fit(X[::29], y[::29])
    lessons = replace(learn_from_pool(neighbour_graph(X), X[::29], y[::29]), trust=1.0)
    mean = np.sqrt(head.predict_proba(X) * copy.deepcopy(head).merge(lessons.head).predict_proba(X))
    weights = lessons.weights(head)
    assert weights.temperature > 1
    mean **= 1 / weights.temperature
    np.testing.assert_allclose(weights.predict_proba(X), mean / mean.sum(axis=1, keepdims=True), rtol=1e-9)


def test_half_of_what_the_pool_makes_surer_is_taken_back():
    X, y = blobs()
    head = StreamingLDA().partial_fit(X[::29], y[::29])
    weights = replace(learn_from_pool(neighbour_graph(X), X[::29], y[::29]), trust=1.0).weights(head)
    alone, helped, untamed = (
        each.predict_proba(X).max(axis=1).mean()
        for each in (head.weights(), weights, replace(weights, temperature=1.0))
    )
    assert helped == pytest.approx((alone + untamed) / 2, abs=0.02)


def test_lessons_name_the_images_they_teach_so_that_they_can_be_learned_again():
    X, y = blobs()
    lessons = learn_from_pool(neighbour_graph(X, random_state=3), X[::29], y[::29])
    again = StreamingLDA().partial_fit(X[lessons.places], lessons.labels, sample_weight=lessons.sample_weight)
    np.testing.assert_allclose(again.predict_proba(X), lessons.head.predict_proba(X))


def test_lessons_change_neither_the_head_nor_what_never_labelled_classes_are_given():
    X, y = blobs()
    head = StreamingLDA().partial_fit(X[::29], y[::29], classes=["cat", "dog", "fox"])
    before = head.weights()
    after = learn_from_pool(neighbour_graph(X), X[::29], y[::29]).weights(head, ["fox", "dog", "cat"])
    assert head.weights() is before
    assert after.classes.tolist() == ["fox", "dog", "cat"]
    np.testing.assert_allclose(after.predict_proba(X)[:, 0], before.predict_proba(X)[:, 2])


def test_lessons_are_still_of_use_after_labels_came_and_a_class_went():
    X, y = blobs(("cat", "dog", "fox"))
    lessons = learn_from_pool(neighbour_graph(X), X[::29], y[::29])
    head = StreamingLDA().partial_fit(X[::10], y[::10])
    assert accuracy(lessons.weights(head), X, y) > 0.9
    gone = np.flatnonzero(y[::10] == "fox") * 10
    head.forget(X[gone], y[gone])
    assert lessons.weights(head).classes.tolist() == ["cat", "dog"]
    declared = head.declare(["cat", "dog", "fox"])
    assert (lessons.weights(declared).predict(X) != "fox").all()


@pytest.mark.parametrize("labelled", [0, 1, 2])
def test_without_two_classes_there_is_nothing_to_learn(labelled):
    X, _ = blobs()
    lessons = learn_from_pool(neighbour_graph(X), X[:labelled], ["cat"] * labelled)
    assert lessons.trust == 0
    head = StreamingLDA().declare(["cat", "dog"]).partial_fit(X[:1], ["cat"])
    assert lessons.weights(head) is head.weights()


def test_many_labels_need_no_pool(monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_LABELS", 5)
    X, y = blobs()
    assert learn_from_pool(neighbour_graph(X), X[::49], y[::49]).trust == 0


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_tiny_pools_teach_what_they_can(count):
    X, y = blobs()
    lessons = learn_from_pool(neighbour_graph(X[:count].reshape(count, 5)), X[::49], y[::49])
    head = StreamingLDA().partial_fit(X[::49], y[::49])
    np.testing.assert_allclose(lessons.weights(head).predict_proba(X).sum(axis=1), 1)


def test_copies_and_images_without_features_do_no_harm():
    X, y = blobs()
    X[::2] = X[1]
    X[5] = 0
    lessons = learn_from_pool(neighbour_graph(X), X[1::29], y[1::29])
    head = StreamingLDA().partial_fit(X[1::29], y[1::29])
    np.testing.assert_allclose(lessons.weights(head).predict_proba(X).sum(axis=1), 1)


def test_a_label_counts_by_its_weight():
    X, _ = blobs()
    graph = neighbour_graph(X)
    twice = learn_from_pool(graph, X[[0, 0, 201]], ["cat", "dog", "dog"], sample_weight=[1.0, 0.0, 1.0])
    once = learn_from_pool(graph, X[[0, 201]], ["cat", "dog"])
    np.testing.assert_allclose(twice.head.counts_, once.head.counts_)
    assert twice.trust == once.trust


def test_wrong_arguments_are_named():
    X, y = blobs()
    graph = neighbour_graph(X)
    with pytest.raises(ValueError, match="3 labelled images"):
        learn_from_pool(graph, X[:3], y[:2])
    with pytest.raises(ValueError, match="weight"):
        learn_from_pool(graph, X[:2], y[:2], sample_weight=[1.0, -1.0])
    with pytest.raises(ValueError, match="3 features"):
        learn_from_pool(graph, X[:2, :3], y[:2])
    with pytest.raises(ValueError, match="table"):
        neighbour_graph(X[0])
