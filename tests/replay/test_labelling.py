from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import replay
from replay import labelling
from replay.heads import HEADS
from replay.orders import ORDERS
from replay.results import Results, Trace

CLASSES = ("ant", "bee", "cow")


def clouds(per_class: int = 40, distance: float = 4.0, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Return three Gaussian clouds."""
    y = np.repeat(CLASSES, per_class)
    centres = distance * np.eye(3, 8)
    return np.random.default_rng(seed).normal(size=(len(y), 8)) + centres[np.repeat(range(3), per_class)], y


def run(X: Any, y: Any, held_out: Any = None, **options: Any) -> Results:
    return replay.run(X, y, held_out, **({"labels": 30, "seeds": 2, "processes": 1} | options))


@pytest.fixture(scope="module")
def results() -> Results:
    return run(*clouds())


def test_every_head_learns_every_order_under_every_seed(results: Results) -> None:
    found = {(trace.head, trace.order, trace.seed) for trace in results.traces}
    assert found == {(head, order, seed) for head in HEADS for order in ORDERS for seed in range(2)}


def test_all_heads_learn_the_same_labels_in_the_same_sequence(results: Results) -> None:
    for order in ORDERS:
        for seed in range(2):
            sequences = {tuple(results.of(head, order)[seed].asked.tolist()) for head in HEADS}
            assert len(sequences) == 1


def test_no_label_is_asked_twice(results: Results) -> None:
    assert all(len(set(trace.asked.tolist())) == 30 for trace in results.traces)


def test_labels_sorted_by_class_are_the_random_ones_each_class_in_one_piece(results: Results) -> None:
    _, y = clouds()
    for at_random, by_class in zip(results.of("ours", "random"), results.of("ours", "sorted"), strict=True):
        assert set(at_random.asked.tolist()) == set(by_class.asked.tolist())
        names = y[by_class.asked]
        assert (names[1:] != names[:-1]).sum() == len(set(names.tolist())) - 1


def test_our_head_ends_the_same_whatever_the_order_and_a_forgetful_one_does_not(results: Results) -> None:
    for at_random, by_class in zip(results.of("ours", "random"), results.of("ours", "sorted"), strict=True):
        assert at_random.accuracy[-1] == by_class.accuracy[-1]
        assert at_random.log_loss[-1] == pytest.approx(by_class.log_loss[-1], rel=1e-6)
    lost = [
        at_random.accuracy[-1] - by_class.accuracy[-1]
        for at_random, by_class in zip(results.of("mlp", "random"), results.of("mlp", "sorted"), strict=True)
    ]
    assert np.mean(lost) > 0.1


def test_only_one_class_is_known_before_the_second_is_met(results: Results) -> None:
    trace = results.of("logistic", "sorted")[0]
    boundary = int(np.flatnonzero(trace.classes_seen == 1)[-1])
    assert trace.labels[boundary] == (clouds()[1][trace.asked] == CLASSES[trace.met[0]]).sum()
    np.testing.assert_array_equal(trace.recall[boundary], np.arange(3) == trace.met[0])


def test_held_out_samples_are_never_asked_and_change_nothing_that_is() -> None:
    X, y = clouds()
    held_out = np.arange(len(y)) % 4 == 0
    first = run(X, y, held_out, heads=["ours"], seeds=1)
    disturbed = X.copy()
    disturbed[held_out] = np.random.default_rng(9).normal(size=(held_out.sum(), 8))
    second = run(disturbed, y, held_out, heads=["ours"], seeds=1)
    assert first.held_out == held_out.sum()
    for one, other in zip(first.traces, second.traces, strict=True):
        assert not held_out[one.asked].any()
        np.testing.assert_array_equal(one.asked, other.asked)
        np.testing.assert_array_equal(one.prequential, other.prequential)
        assert one.accuracy[-1] > other.accuracy[-1] + 0.2


def test_copies_of_held_out_samples_are_left_out_of_learning() -> None:
    X, y = clouds()
    held_out = np.arange(len(y)) % 4 == 0
    X[1], X[2] = X[0], X[4]
    found = run(X, y, held_out, heads=["ours"], orders=["random"], seeds=1, labels=1000)
    assert found.copies == 2
    assert found.labels == found.to_learn_from == (~held_out).sum() - 2
    assert not {1, 2} & set(found.traces[0].asked.tolist())


def test_a_quarter_of_each_class_is_held_out_where_nothing_says_which() -> None:
    found = run(*clouds(), heads=["ours"], orders=["random"], labels=90)
    assert found.held_out == 30
    assert found.to_learn_from == 90
    first, second = (set(trace.asked.tolist()) for trace in found.traces)
    assert first != second
    assert all((trace.confusion.sum(axis=1) == 10).all() for trace in found.traces)


def test_measures_agree_with_each_other(results: Results) -> None:
    for trace in results.traces:
        assert trace.labels[-1] == 30
        assert trace.confusion.trace() / trace.confusion.sum() == pytest.approx(trace.accuracy[-1])
        np.testing.assert_allclose(trace.recall.mean(axis=1), trace.accuracy)
        count, confidence, correct = trace.reliability[-1].T
        assert count.sum() == results.held_out
        assert correct.sum() / count.sum() == pytest.approx(trace.accuracy[-1])
        assert np.abs(confidence - correct).sum() / count.sum() == pytest.approx(trace.calibration_error[-1])


def test_only_heads_that_learn_label_by_label_are_asked_before_each(results: Results) -> None:
    assert np.isnan(results.of("logistic", "random")[0].prequential).all()
    assert results.of("ours", "random")[0].prequential[-1] > 0.6


def test_prediction_sets_hold_the_class_more_often_than_the_likeliest_alone() -> None:
    found = run(*clouds(80, distance=2.0), heads=["ours", "sgd"], orders=["random"], labels=150, seeds=3)
    coverage = found.curve("ours", "random", lambda trace: trace.coverage).mean[-1]
    size = found.curve("ours", "random", lambda trace: trace.set_size).mean[-1]
    assert coverage > found.curve("ours", "random", lambda trace: trace.accuracy).mean[-1]
    assert coverage == pytest.approx(0.9, abs=0.06)
    assert 1 < size < 3
    assert np.isnan(found.of("sgd", "random")[0].coverage).all()


def test_our_order_asks_for_less_clear_samples_than_chance() -> None:
    found = run(*clouds(150, distance=3.0), heads=["ours"], labels=120, seeds=2)
    ours = found.curve("ours", "ours", lambda trace: trace.recent).mean[-1]
    assert ours < found.curve("ours", "random", lambda trace: trace.recent).mean[-1]


def test_a_wrong_label_is_doubted() -> None:
    X, y = clouds(distance=8.0)
    y[7] = "cow"
    found = run(X, y, np.arange(len(y)) % 4 == 0, heads=["ours"], orders=["random"], labels=1000, seeds=1)
    doubt = found.doubts[0]
    assert (doubt.index, doubt.given, doubt.suggested) == (7, "cow", "ant")


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, results: Results) -> None:
    made = 0

    def stop() -> None:
        nonlocal made
        made += 1
        if made == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*clouds(), kept=tmp_path, advance=stop)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(kept) == 5
    again = run(*clouds(), kept=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for one, other in zip(results.traces, again.traces, strict=True):
        assert one.to_json() == other.to_json()


def test_more_seeds_make_only_the_new_traces(tmp_path: Path) -> None:
    options: dict[str, Any] = {"heads": ["ours"], "orders": ["random"], "kept": tmp_path}
    run(*clouds(), seeds=1, **options)
    (first,) = tmp_path.rglob("*.json")
    written = first.stat().st_mtime_ns
    assert len(run(*clouds(), seeds=2, **options).traces) == 2
    assert first.stat().st_mtime_ns == written
    assert len(list(tmp_path.rglob("*.json"))) == 2


@pytest.mark.parametrize("changed", ["features", "classes", "labels", "held_out"])
def test_other_data_is_replayed_anew(tmp_path: Path, changed: str) -> None:
    X, y = clouds()
    held_out = np.arange(len(y)) % 4 == 0
    options: dict[str, Any] = {"heads": ["ours"], "orders": ["random"], "seeds": 1, "kept": tmp_path, "labels": 20}
    run(X, y, held_out, **options)
    if changed == "features":
        X[3] += 1
    elif changed == "classes":
        y[1] = "cow"
    elif changed == "labels":
        options["labels"] = 10
    else:
        held_out[1] = True
    run(X, y, held_out, **options)
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_a_broken_trace_is_made_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"heads": ["ours"], "orders": ["random"], "seeds": 1, "kept": tmp_path}
    whole = run(*clouds(), **options).traces[0]
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text()[:100])
    assert run(*clouds(), **options).traces[0].to_json() == whole.to_json()


def test_what_code_a_trace_depends_on_exists() -> None:
    assert all(Path(labelling.__file__).with_name(name).is_file() for name in labelling.CODE)


def test_a_trace_survives_as_text(results: Results) -> None:
    for trace in results.traces:
        again = Trace.from_json(trace.to_json())
        for field in fields(Trace):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(trace, field.name))


def test_progress_counts_each_trace_once() -> None:
    begun: list[int] = []
    done: list[int] = []
    run(*clouds(), heads=["ours", "sgd"], begin=begun.append, advance=lambda: done.append(1))
    assert begun == [len(done)] == [12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": ["backwards"]}, "There is no order 'backwards'; there are random, ours, sorted"),
        ({"heads": []}, "Name each head once"),
        ({"heads": ["sgd", "sgd"]}, "Name each head once"),
        ({"labels": 0}, "at least one label"),
        ({"seeds": 0}, "one seed"),
        ({"held_out": [True]}, "120 times true or false"),
        ({"held_out": np.zeros(120, dtype=bool)}, "No sample is held out"),
        ({"held_out": clouds()[1] == "ant"}, "no sample of the class ant"),
        ({"y": ["ant"] * 120}, "two classes or more"),
        ({"y": ["ant", "bee"]}, "120 samples, but y"),
        ({"X": np.full((120, 8), np.nan)}, "not finite"),
    ],
)
def test_senseless_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    X, y = clouds()
    with pytest.raises(ValueError, match=message):
        run(**({"X": X, "y": y} | options))
