import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from model.comparison import make_head
from model.head import StreamingLDA
from model.weights import Weights

CLASSES = ["angry", "happy", "sad"]


def samples(count, classes, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(len(classes), size=count)
    return np.eye(8)[y] * 4 + random.normal(size=(count, 8)), np.array(classes)[y]


@pytest.mark.parametrize("kind", ["streaming_lda", "mlp", "sgd"])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_every_head_learns_and_its_weights_serve_the_same(kind, classes):
    head = make_head(kind, classes)
    for seed in range(40):
        head.partial_fit(*samples(10, classes, seed))
    X, y = samples(100, classes, seed=99)
    served = Weights.from_bytes(head.weights().to_bytes())
    assert (served.predict(X) == y).mean() > 0.9
    np.testing.assert_allclose(served.predict_proba(X), head.predict_proba(X), rtol=0, atol=1e-12)
    assert served.classes.tolist() == head.classes_.tolist() == classes


@pytest.mark.parametrize("kind", ["streaming_lda", "mlp", "sgd"])
def test_a_head_that_learned_nothing_is_undecided_and_has_nothing_to_serve(kind):
    head = make_head(kind, CLASSES)
    np.testing.assert_allclose(head.predict_proba(np.zeros((2, 8))), 1 / 3)
    with pytest.raises(NotFittedError):
        head.weights()


def test_only_our_own_head_can_forget():
    assert [make_head(kind, CLASSES).can_forget for kind in ("streaming_lda", "mlp", "sgd")] == [True, False, False]
    assert isinstance(make_head("streaming_lda", CLASSES), StreamingLDA)


@pytest.mark.parametrize("kind", ["mlp", "sgd"])
def test_a_new_class_needs_a_new_head(kind):
    head = make_head(kind, CLASSES).partial_fit(*samples(10, CLASSES))
    with pytest.raises(ValueError, match="'fear' is new"):
        head.partial_fit(np.zeros((1, 8)), ["fear"])


@pytest.mark.parametrize("kind", ["mlp", "sgd"])
def test_one_class_is_too_few_for_scikit_learn(kind):
    with pytest.raises(ValueError, match="two classes or more"):
        make_head(kind, ["happy"])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="no head 'magic'"):
        make_head("magic", CLASSES)


@pytest.mark.parametrize("X", [np.zeros((1, 5)), np.full((1, 8), np.nan), np.zeros(8)])
def test_wrong_features_are_refused(X):
    head = make_head("sgd", CLASSES).partial_fit(*samples(10, CLASSES))
    with pytest.raises(ValueError, match="X "):
        head.predict_proba(X)
    with pytest.raises(ValueError, match="X "):
        head.partial_fit(X, ["happy"])
