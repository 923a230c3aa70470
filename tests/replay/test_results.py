from __future__ import annotations

import numpy as np
import pytest

from replay.results import Results, Trace


def trace(accuracies: list[float], head: str = "ours", order: str = "ours", seed: int = 0, step: int = 10) -> Trace:
    count = len(accuracies)
    empty, number = np.full(count, np.nan), np.arange(1, count + 1, dtype=np.intp)
    return Trace(
        head=head,
        order=order,
        seed=seed,
        asked=np.arange(step * count),
        labels=step * number,
        classes_seen=np.full(count, 2),
        accuracy=np.array(accuracies),
        log_loss=empty,
        calibration_error=empty,
        coverage=empty,
        set_size=empty,
        prequential=empty,
        recent=empty,
        recall=np.zeros((count, 2)),
        reliability=np.zeros((count, 15, 3)),
        confusion=np.zeros((2, 2), dtype=np.intp),
        met=np.array([0, 1]),
    )


def results(*traces: Trace, labels: int = 60) -> Results:
    return Results(("cat", "dog"), ("ours", "logistic"), ("random", "ours"), 2, labels, 100, 50, 0, traces, ())


def test_a_curve_is_the_mean_and_standard_deviation_over_seeds() -> None:
    found = results(trace([0.5, 0.8]), trace([0.7, 0.8], seed=1))
    curve = found.curve("ours", "ours", lambda each: each.accuracy)
    assert curve.labels.tolist() == [10, 20]
    np.testing.assert_allclose(curve.mean, [0.6, 0.8])
    np.testing.assert_allclose(curve.spread, [np.sqrt(0.02), 0])


def test_a_curve_has_only_the_checkpoints_that_all_seeds_have() -> None:
    found = results(trace([0.5, 0.6, 0.7, 0.8]), trace([0.6, 0.8], seed=1, step=20))
    curve = found.curve("ours", "ours", lambda each: each.accuracy)
    assert curve.labels.tolist() == [20, 40]
    np.testing.assert_allclose(curve.mean, [0.6, 0.8])


def test_one_lucky_checkpoint_does_not_reach_a_target() -> None:
    lucky = results(trace([0.5, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5]))
    steady = results(trace([0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9]))
    assert lucky.labels_needed("ours", "ours", 0.8) is None
    assert steady.labels_needed("ours", "ours", 0.8) == 60


def test_the_target_is_the_refits_accuracy_on_400_random_labels() -> None:
    refit = [trace([0.6, 0.7], "logistic", "random", seed, step=200) for seed in range(2)]
    assert results(*refit).target() == pytest.approx(0.7)
    assert results(trace([0.6, 0.7])).target() is None


def test_tables_have_a_row_for_the_last_label_too() -> None:
    assert results(labels=60).rows == (10, 20, 50, 60)
    assert results(labels=5).rows == (5,)
    assert results(labels=1000).rows == (10, 20, 50, 100, 200, 500, 1000)


def test_text_that_is_no_trace_is_refused() -> None:
    for text in ("", "{}", "[1]", '{"head": "ours"}'):
        with pytest.raises(ValueError):  # noqa: PT011
            Trace.from_json(text)
