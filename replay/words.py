"""How heads, orders and numbers are called where people read them."""

from __future__ import annotations

HEADS = {
    "ours": "Tandem",
    "mlp": "MLP, partial_fit",
    "sgd": "SGD, partial_fit",
    "logistic": "logistic regression, refit",
}

ORDERS = {"random": "asked at random", "ours": "asked by Tandem", "sorted": "sorted by class"}


def percent(share: float) -> str:
    """Return a share in percent, or a dash where there is none.

    Examples
    --------
    >>> percent(0.4567), percent(float("nan"))
    ('45.7', '–')
    """
    return "–" if share != share else f"{100 * share:.1f}"


def with_spread(mean: float, spread: float, seeds: int) -> str:
    """Return mean and standard deviation in percent; the mean alone with one seed.

    Examples
    --------
    >>> with_spread(0.4567, 0.0123, 3)
    '45.7 ± 1.2'
    """
    return percent(mean) if seeds < 2 or mean != mean else f"{percent(mean)} ± {percent(spread)}"
