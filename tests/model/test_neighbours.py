import copy
from dataclasses import replace

import numpy as np
import pytest

from model import neighbours
from model.head import StreamingLDA
from model.neighbours import PoolLessons, learn_from_pool, neighbour_graph


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
        lessons = learn_from_pool(graph, head, X[labelled], y[labelled])
        helped.append(accuracy(lessons.add_to(head.weights(), 2), new, true))
    assert np.mean(helped) > np.mean(alone) + 0.05


def learned(X, y, places, **classes):
    """A head that learned the samples at these places, and what the pool adds to it."""
    head = StreamingLDA().partial_fit(X[places], y[places], **classes)
    return head, learn_from_pool(neighbour_graph(X), head, X[places], y[places])


def test_the_pool_is_not_trusted_where_neighbours_share_no_class():
    X, y = blobs()
    labelled = np.random.default_rng(1).permutation(300)[:100]
    _, lessons = learned(X, np.random.default_rng(0).permutation(y), labelled)
    assert lessons.trust < 0.25
    _, lessons = learned(X, y, labelled)
    assert lessons.trust > 0.8


def test_where_nothing_is_trusted_the_head_serves_alone(monkeypatch):
    monkeypatch.setattr(neighbours, "_trust", lambda *_: 0.0)
    X, y = blobs()
    head, lessons = learned(X, y, slice(None, None, 29))
    assert lessons.add_to(head.weights(), lessons.labels) is head.weights()


def test_what_serves_is_the_geometric_mean_of_both_heads_at_one_temperature(monkeypatch):
    monkeypatch.setattr(neighbours, "_trust", lambda *_: 1.0)
    monkeypatch.setattr(neighbours, "_temperature", lambda *_: 1.25)
    pools = []
    merge = StreamingLDA.merge
    monkeypatch.setattr(StreamingLDA, "merge", lambda head, other: pools.append(other) or merge(head, other))
    X, y = blobs()
    head, lessons = learned(X, y, slice(None, None, 29))
    both = head.predict_proba(X) * merge(copy.deepcopy(head), pools[0]).predict_proba(X)
    mean = both ** (0.5 / 1.25)
    weights = lessons.add_to(head.weights(), lessons.labels)
    np.testing.assert_allclose(weights.predict_proba(X), mean / mean.sum(axis=1, keepdims=True), rtol=1e-6)


def test_half_of_what_the_pool_makes_surer_is_taken_back(monkeypatch):
    monkeypatch.setattr(neighbours, "_trust", lambda *_: 1.0)
    X, y = blobs()
    head, lessons = learned(X, y, slice(None, None, 29))
    monkeypatch.setattr(neighbours, "_temperature", lambda *_: 1.0)
    _, untamed = learned(X, y, slice(None, None, 29))
    alone = head.weights()
    sure = [
        weights.predict_proba(X).max(axis=1).mean()
        for weights in (alone, lessons.add_to(alone, lessons.labels), untamed.add_to(alone, lessons.labels))
    ]
    assert sure[1] == pytest.approx((sure[0] + sure[2]) / 2, abs=0.02)


def test_lessons_change_neither_the_head_nor_what_never_labelled_classes_are_given():
    X, y = blobs()
    head, lessons = learned(X, y, slice(None, None, 29), classes=["cat", "dog", "fox"])
    before = head.weights()
    served = lessons.add_to(before, lessons.labels)
    assert head.weights() is before
    other_way = lessons.add_to(head.weights(["fox", "dog", "cat"]), lessons.labels)
    assert other_way.classes.tolist() == ["fox", "dog", "cat"]
    np.testing.assert_allclose(other_way.predict_proba(X), served.predict_proba(X)[:, ::-1])
    np.testing.assert_allclose(served.predict_proba(X)[:, 2], before.predict_proba(X)[:, 2])
    assert (served.predict_proba(X)[:, :2] != before.predict_proba(X)[:, :2]).any()


def test_lessons_serve_while_few_labels_came_or_went_and_no_class_did():
    X, y = blobs(("cat", "dog", "fox"))
    head, lessons = learned(X, y, slice(None, None, 29))
    assert lessons.labels == 11
    alone = head.weights()
    assert [lessons.add_to(alone, labels) is alone for labels in (7, 8, 16, 17)] == [True, False, False, True]
    more = StreamingLDA().partial_fit(X[::20], y[::20]).weights()
    assert accuracy(lessons.add_to(more, 15), X, y) > 0.9
    foxes = np.flatnonzero(y[::29] == "fox") * 29
    without = head.forget(X[foxes], y[foxes]).weights()
    assert lessons.add_to(without, 8) is without


def test_lessons_are_kept_as_bytes():
    X, y = blobs()
    head, lessons = learned(X, y, slice(None, None, 29))
    kept = PoolLessons.from_bytes(lessons.to_bytes())
    served, again = (each.add_to(head.weights(), 11).predict_proba(X) for each in (lessons, kept))
    np.testing.assert_allclose(again, served, atol=1e-6)
    assert PoolLessons.from_bytes(PoolLessons().to_bytes()).trust == 0


@pytest.mark.parametrize("change", [{"intercept": np.zeros(3)}, {"coef": np.full((2, 5), np.nan)}, {"trust": 2.0}])
def test_bytes_that_are_no_lessons_are_refused(change):
    X, y = blobs()
    _, lessons = learned(X, y, slice(None, None, 29))
    with pytest.raises(ValueError, match="no saved lessons"):
        PoolLessons.from_bytes(replace(lessons, **change).to_bytes())
    with pytest.raises(ValueError, match="no saved lessons"):
        PoolLessons.from_bytes(lessons.to_bytes()[:100])


@pytest.mark.parametrize("labelled", [0, 1, 2])
def test_without_two_classes_there_is_nothing_to_learn(labelled):
    X, _ = blobs()
    head = StreamingLDA().declare(["cat", "dog"]).partial_fit(X[:1], ["cat"])
    lessons = learn_from_pool(neighbour_graph(X), head, X[:labelled], ["cat"] * labelled)
    assert lessons.trust == 0
    assert lessons.add_to(head.weights(), labelled) is head.weights()


def test_many_labels_need_no_pool(monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_LABELS", 5)
    X, y = blobs()
    assert learned(X, y, slice(None, None, 49))[1].trust == 0


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_tiny_pools_teach_what_they_can(count):
    X, y = blobs()
    head = StreamingLDA().partial_fit(X[::49], y[::49])
    lessons = learn_from_pool(neighbour_graph(X[:count].reshape(count, 5)), head, X[::49], y[::49])
    weights = lessons.add_to(head.weights(), lessons.labels)
    np.testing.assert_allclose(weights.predict_proba(X).sum(axis=1), 1)


def test_copies_and_images_without_features_do_no_harm():
    X, y = blobs()
    X[::2] = X[1]
    X[5] = 0
    head, lessons = learned(X, y, slice(1, None, 29))
    weights = lessons.add_to(head.weights(), lessons.labels)
    np.testing.assert_allclose(weights.predict_proba(X).sum(axis=1), 1)


def test_a_label_counts_by_its_weight():
    X, _ = blobs()
    graph = neighbour_graph(X)
    head = StreamingLDA().partial_fit(X[[0, 201]], ["cat", "dog"])
    twice = learn_from_pool(graph, head, X[[0, 0, 201]], ["cat", "dog", "dog"], sample_weight=[1.0, 0.0, 1.0])
    once = learn_from_pool(graph, head, X[[0, 201]], ["cat", "dog"])
    np.testing.assert_allclose(twice.coef, once.coef)
    assert (twice.trust, twice.labels) == (once.trust, once.labels)


def test_wrong_arguments_are_named():
    X, y = blobs()
    graph, head = neighbour_graph(X), StreamingLDA().partial_fit(X[:2], y[:2])
    with pytest.raises(ValueError, match="3 labelled images"):
        learn_from_pool(graph, head, X[:3], y[:2])
    with pytest.raises(ValueError, match="weight"):
        learn_from_pool(graph, head, X[:2], y[:2], sample_weight=[1.0, -1.0])
    with pytest.raises(ValueError, match="3 features"):
        learn_from_pool(graph, head, X[:2, :3], y[:2])
    with pytest.raises(ValueError, match="table"):
        neighbour_graph(X[0])
