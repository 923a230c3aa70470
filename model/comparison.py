"""scikit-learn's own incremental classifiers, as heads to compare with.

They can't forget: what they learned from a label is spread over all their weights, so whoever takes a label back has to
learn all others anew.
"""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.utils.validation import check_is_fitted

from model.head import Labels, StreamingLDA
from model.weights import Floats, LinearWeights, MLPWeights, Weights, as_features


class IncrementalHead:
    """A classifier of scikit-learn that learns by `partial_fit`, with the interface of our own head.

    Parameters
    ----------
    kind : {"mlp", "sgd"}
        Which one.
    classes : array-like of str or int, shape (k,)
        All classes there will be, at least two: it can't add one later.
    random_state : int
        Seed of the first weights and of the order within a batch.

    Raises
    ------
    ValueError
        When there are fewer than two classes.
    """

    can_forget = False

    def __init__(self, kind: Literal["mlp", "sgd"], classes: ArrayLike, random_state: int = 0) -> None:
        self.classes_: Labels = np.unique(np.asarray(classes))
        if len(self.classes_) < 2:
            raise ValueError(f"scikit-learn's {kind} needs two classes or more, not {self.classes_.tolist()}.")
        self._model: Any = (
            MLPClassifier(random_state=random_state)
            if kind == "mlp"
            else SGDClassifier(loss="log_loss", random_state=random_state)
        )

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803
        """Learn more samples; the result depends on their order and on how they are split.

        Raises
        ------
        ValueError
            When `X` has another shape, is not finite, or a class is not one of those given at the start.
        """
        features, labels = as_features(X, getattr(self._model, "n_features_in_", None)), np.asarray(y)
        unknown = set(labels.tolist()) - set(self.classes_.tolist())
        if unknown:
            raise ValueError(f"The class {unknown.pop()!r} is new; make a new head with it and learn all labels anew.")
        self._model.partial_fit(features, labels, classes=self.classes_)
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:  # noqa: N803
        """Return probabilities, shape (n, k), columns as in `classes_`; equal ones before anything is learned."""
        if not hasattr(self._model, "n_features_in_"):
            return np.full((len(as_features(X, None)), len(self.classes_)), 1 / len(self.classes_))
        return cast(Floats, self._model.predict_proba(as_features(X, self._model.n_features_in_)))

    def weights(self) -> Weights:
        """Return what serves.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            When nothing was learned yet.
        """
        check_is_fitted(self._model)
        if isinstance(self._model, MLPClassifier):
            (hidden_coef, coef), (hidden_intercept, intercept) = self._model.coefs_, self._model.intercepts_
            coef, intercept = _both_sides(coef.T, intercept)
            return MLPWeights(self.classes_, hidden_coef, hidden_intercept, np.ascontiguousarray(coef.T), intercept)
        coef, intercept = _both_sides(self._model.coef_, self._model.intercept_)
        link: Literal["softmax", "one-vs-rest"] = "softmax" if len(self.classes_) == 2 else "one-vs-rest"
        return LinearWeights(self.classes_, coef, intercept, 1.0, np.zeros(len(coef)), link)


def make_head(kind: Literal["streaming_lda", "mlp", "sgd"], classes: ArrayLike) -> StreamingLDA | IncrementalHead:
    """Make a head that has learned nothing.

    Parameters
    ----------
    kind : {"streaming_lda", "mlp", "sgd"}
        Our own, or one of scikit-learn's for comparison.
    classes : array-like of str or int, shape (k,)
        Classes that are known to exist.

    Raises
    ------
    ValueError
        When there is no such kind, or it needs more classes.

    Examples
    --------
    >>> make_head("streaming_lda", ["cat", "dog"]).predict_proba([[0.5, 1.0]])
    array([[0.5, 0.5]])
    """
    if kind == "streaming_lda":
        return StreamingLDA().declare(classes)
    if kind in ("mlp", "sgd"):
        return IncrementalHead(kind, classes)
    raise ValueError(f"There is no head {kind!r}; there are streaming_lda, mlp and sgd.")


def _both_sides(coef: Floats, intercept: Floats) -> tuple[Floats, Floats]:
    """Give the first of two classes its own logit, 0, where scikit-learn keeps only the second's."""
    if len(coef) > 1:
        return coef, intercept
    return np.vstack([np.zeros_like(coef), coef]), np.concatenate([[0.0], intercept])
