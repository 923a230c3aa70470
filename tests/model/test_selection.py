import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.selection import (
    ALIKE,
    COLD_START,
    asked_regardless,
    cold_start,
    explore,
    in_random_sample,
    medoids,
    order,
)
from model.uncertainty import clarity, margin


def clusters(sizes, dim=16, seed=0):
    """Tight clusters in random directions, and the cluster of each sample."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(len(sizes), dim)) * 5
    members = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[members] + random.normal(size=(len(members), dim)) * 0.1).astype(np.float32), members


def asked(scores):
    """Places in the order in which they are asked."""
    return np.argsort(scores, kind="stable").tolist()


def test_medoids_stand_for_every_cluster():
    X, members = clusters([5, 50, 20, 100, 8])
    assert sorted(members[medoids(X, 5)]) == [0, 1, 2, 3, 4]


def test_large_clusters_come_first():
    X, members = clusters([5, 400, 20])
    assert members[medoids(X, 3)].tolist() == [1, 2, 0]


def test_medoids_repeat_for_a_seed_and_differ_from_each_other():
    X, _ = clusters([30] * 4)
    first = medoids(X, 10, random_state=3)
    np.testing.assert_array_equal(medoids(X, 10, random_state=3), first)
    assert len(set(first.tolist())) == 10


@pytest.mark.parametrize(("rows", "count", "got"), [(0, 5, 0), (3, 5, 3), (1, 1, 1), (10, 0, 0), (10, 10, 10)])
def test_there_are_as_many_medoids_as_can_be(rows, count, got):
    assert sorted(set(medoids(np.random.default_rng(0).normal(size=(rows, 4)), count))) == sorted(
        medoids(np.random.default_rng(0).normal(size=(rows, 4)), count)
    )
    assert len(medoids(np.random.default_rng(0).normal(size=(rows, 4)), count)) == got


def test_samples_that_are_all_the_same_have_medoids_too():
    assert sorted(medoids(np.ones((6, 3)), 4)) == sorted(set(medoids(np.ones((6, 3)), 4)))
    assert len(medoids(np.zeros((6, 3)), 4)) == 4


def test_medoids_of_a_large_pool_are_drawn_from_all_of_it():
    X, members = clusters([4000] * 5)
    assert sorted(members[medoids(X.astype(np.float16), 5)]) == [0, 1, 2, 3, 4]


def test_cold_start_ranks_everything_with_medoids_first():
    X, members = clusters([30, 40, 50])
    scores = cold_start(X, count=3)
    np.testing.assert_allclose(np.sort(scores), np.arange(120) / 120)
    assert asked(scores)[:3] == medoids(X, 3).tolist()
    assert sorted(members[asked(scores)[:3]]) == [0, 1, 2]


def test_cold_start_begins_with_no_task_that_has_a_turn_of_its_own():
    X, _ = clusters([30, 30, 30])
    apart = np.arange(90) % 3 == 0
    first = np.argsort(cold_start(X, count=10, apart=apart))[:10]
    assert not apart[first].any()
    assert sorted(cold_start(X, count=10, apart=np.ones(90, dtype=bool))) == sorted(np.arange(90) / 90)


def test_cold_start_of_nothing_is_nothing():
    assert cold_start(np.zeros((0, 4))).shape == (0,)


def test_the_margin_of_one_class_is_sure():
    np.testing.assert_array_equal(margin([[1.0], [1.0]]), [1.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 60), candidates=st.integers(1, 80))
def test_every_score_is_the_margin_unless_the_task_waits(seed, count, candidates):
    random = np.random.default_rng(seed)
    proba = random.dirichlet(np.ones(4), count).reshape(count, 4)
    X = random.normal(size=(count, 5))[random.integers(max(count // 2, 1), size=count)] if count else np.zeros((0, 5))
    scores, margins = order(proba, X, candidates), margin(proba)
    waits = scores != margins
    assert (scores >= 0).all()
    assert (scores <= 1).all()
    assert (scores[waits] > margins[waits]).all()
    nearest = np.argsort(margins, kind="stable")[:candidates]
    assert set(np.flatnonzero(waits)) <= set(nearest)
    asked_first = [place for place in asked(scores) if place in set(nearest)]
    assert asked(scores)[: len(nearest)] == asked_first
    kept = [place for place in asked_first if not waits[place]]
    assert asked_first[: len(kept)] == kept
    assert (np.diff(margins[asked_first[len(kept) :]]) >= 0).all()


def test_copies_of_a_task_wait_until_the_others_were_asked():
    random = np.random.default_rng(0)
    X = np.concatenate([np.repeat(random.normal(size=(1, 8)), 10, axis=0), random.normal(size=(10, 8))])
    proba = np.column_stack([np.linspace(0.5, 0.9, 20), np.linspace(0.5, 0.1, 20)])
    first = asked(order(proba, X))
    assert first[0] == 0
    assert set(first[-9:]) == set(range(1, 10))


def test_a_task_that_is_sure_is_asked_after_those_that_wait():
    X = np.ones((5, 3))
    proba = [[0.5, 0.5], [0.5, 0.5], [0.55, 0.45], [0.99, 0.01], [1.0, 0.0]]
    assert asked(order(proba, X, candidates=3)) == [0, 1, 2, 3, 4]


def test_half_precision_orders_as_single_does():
    random = np.random.default_rng(0)
    X, proba = random.normal(size=(300, 64)).astype(np.float16), random.dirichlet(np.ones(5), 300)
    np.testing.assert_array_equal(order(proba, X), order(proba, X.astype(np.float32)))


def test_what_is_like_a_task_in_work_waits():
    X, members = clusters([10] * 12)
    proba = np.column_stack([np.linspace(0.5, 0.9, 120), np.linspace(0.5, 0.1, 120)])
    assert members[asked(order(proba, X))[0]] == 0
    assert members[asked(order(proba, X, taken=X[[3]]))[0]] == 1
    assert members[asked(order(proba, X, taken=X[[3, 15, 25]].astype(np.float16)))[0]] == 3


def test_people_who_are_handed_tasks_one_after_the_other_get_those_of_one_order():
    X, _ = clusters([10] * 12)
    random = np.random.default_rng(0)
    proba = random.dirichlet(np.ones(3), 120)
    at_once = asked(order(proba, X))[:5]
    left, taken = list(range(120)), []
    for _person in range(5):
        scores = order(proba[left], X[left], taken=X[taken])
        taken.append(left.pop(int(scores.argmin())))
    assert taken == at_once


def test_near_duplicates_of_labelled_tasks_wait_and_what_is_merely_like_them_does_not():
    random = np.random.default_rng(0)
    X = random.normal(size=(40, 64))
    proba = np.column_stack([np.linspace(0.5, 0.9, 40), np.linspace(0.5, 0.1, 40)])
    copy = X[0] * 1.3 + random.normal(size=64) * 0.05
    akin = X[1] + random.normal(size=64) * 0.4
    cosine = akin @ X[1] / np.linalg.norm(akin) / np.linalg.norm(X[1])
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    assert 0.02 < 1 - cosine < np.quantile(1 - unit @ unit.T, ALIKE)
    scores = order(proba, X, labelled=[copy, akin])
    assert scores[0] > margin(proba)[0]
    assert asked(scores)[0] == 1


def test_nothing_taken_or_labelled_changes_nothing():
    X, _ = clusters([10] * 3)
    proba = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    np.testing.assert_array_equal(order(proba, X, taken=X[:0], labelled=[]), order(proba, X))


def test_a_task_is_in_the_random_sample_whatever_the_others_are():
    keys = [f"task {number}" for number in range(5000)]
    sample = in_random_sample(keys, 0.1)
    assert 400 < sample.sum() < 600
    np.testing.assert_array_equal(in_random_sample(keys[100:200], 0.1), sample[100:200])
    assert not (sample & ~in_random_sample(keys, 0.2)).any()
    assert (in_random_sample(keys, 0.1, random_state=1) != sample).any()
    assert not in_random_sample(keys, 0.0).any()
    assert in_random_sample(keys, 1.0).all()


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 200),
    share=st.sampled_from([0.05, 0.1, 0.3, 0.5, 1.0]),
    labels=st.integers(0, 50),
    first=st.sampled_from([0, 20]),
)
def test_so_many_questions_are_of_the_random_sample_from_the_first_that_is_counted_on(
    seed, count, share, labels, first
):
    keys = [f"{seed} {number}" for number in range(count)]
    scores = np.random.default_rng(seed).uniform(0.01, 0.99, count)
    mixed = explore(scores, keys, share, labels, first=first)
    sample = in_random_sample(keys, share)
    np.testing.assert_array_equal(mixed[~sample], scores[~sample])
    assert ((mixed > 0) & (mixed <= 1)).all()
    turns = sample[asked(mixed)]
    both = 0 if sample.all() or not sample.any() else min(np.flatnonzero(turns)[-1], np.flatnonzero(~turns)[-1])
    for place in range(both):
        number = labels + place - first
        due = number >= 0 and np.floor((number + 1) * share + 1e-9) > np.floor(number * share + 1e-9)
        assert turns[place] == due


def test_the_random_sample_is_asked_in_one_order_however_unclear_its_tasks_are():
    keys = [f"task {number}" for number in range(300)]
    random = np.random.default_rng(0)
    answered = []
    left = list(range(300))
    for number in range(100):
        here = [keys[place] for place in left]
        place = int(explore(random.uniform(0.01, 0.99, len(left)), here, 0.2, number).argmin())
        answered.append(left.pop(place))
    asked_of_sample = [place for place in answered if in_random_sample([keys[place]], 0.2)[0]]
    assert len(asked_of_sample) == 20
    sample = np.flatnonzero(in_random_sample(keys, 0.2))
    again = explore(np.linspace(0.1, 0.9, 300), keys, 0.2, 0)
    assert asked_of_sample == sample[np.argsort(again[sample])][:20].tolist()


def test_what_was_asked_first_or_drawn_at_random_was_asked_regardless_of_the_head():
    keys = [f"task {number}" for number in range(300)]
    np.testing.assert_array_equal(asked_regardless(keys, 0.0), np.arange(300) < COLD_START)
    regardless = asked_regardless(keys, 0.2)
    assert regardless[:COLD_START].all()
    np.testing.assert_array_equal(regardless[COLD_START:], in_random_sample(keys[COLD_START:], 0.2))


def test_wrong_shares_and_scores_are_named():
    with pytest.raises(ValueError, match="share"):
        in_random_sample(["task"], 1.5)
    with pytest.raises(ValueError, match="score for each of 1"):
        explore([0.1, 0.2], ["task"], 0.1, 0)
    with pytest.raises(ValueError, match="2 features"):
        order([[0.5, 0.5]], [[1.0, 0.0]], taken=[[1.0]])


def test_probabilities_and_features_must_be_of_the_same_tasks():
    with pytest.raises(ValueError, match="2 tasks"):
        order([[0.5, 0.5]] * 2, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="table"):
        margin([0.5, 0.5])
    with pytest.raises(ValueError, match="table"):
        medoids(np.zeros(3), 1)


def test_what_is_novel_is_unclear_however_far_one_class_is_ahead():
    proba = np.array([[0.95, 0.05], [0.7, 0.3], [0.9, 0.1]])
    assert asked(clarity(proba, [0.995, 0.2, 0.94])) == [0, 1, 2]
    np.testing.assert_array_equal(clarity(proba, [0.2, np.nan, 0.94]), margin(proba))
    X = np.eye(3)
    assert asked(order(proba, X)) == [1, 2, 0]
    assert asked(order(proba, X, novelty=[0.995, 0.2, 0.94])) == [0, 1, 2]


@pytest.mark.parametrize("novelty", [[0.5], [0.5, 1.5]])
def test_a_novelty_that_is_none_is_refused(novelty):
    with pytest.raises(ValueError, match="novelty from 0 to 1"):
        clarity([[0.5, 0.5], [0.5, 0.5]], novelty)
