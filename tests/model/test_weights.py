import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.head import StreamingLDA
from model.weights import LinearWeights, MLPWeights, Weights, signed_root

CLASSES = np.array(["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"])


def learned(dim=12, count=40):
    random = np.random.default_rng(0)
    return StreamingLDA().partial_fit(
        random.normal(size=(count, dim)), CLASSES[random.integers(5, size=count)], classes=CLASSES
    )


def linear(**changes):
    values = {
        "classes": np.array(["a", "b"]),
        "coef": np.ones((2, 3)),
        "intercept": np.zeros(2),
        "temperature": 1.0,
        "reserved": np.zeros(2),
    }
    return LinearWeights(**{**values, **changes})


def repacked(data, **changes):
    """The same saved weights with some arrays changed, or left out where the change is None."""
    with np.load(io.BytesIO(data)) as arrays:
        values = {**arrays, **changes}
    file = io.BytesIO()
    np.savez(file, **{name: value for name, value in values.items() if value is not None})
    return file.getvalue()


def test_served_weights_predict_as_the_head_does():
    head = learned()
    X = np.random.default_rng(1).normal(size=(100, 12))
    served = Weights.from_bytes(head.weights().to_bytes())
    np.testing.assert_allclose(served.predict_proba(X), head.predict_proba(X), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(served.predict(X), head.predict(X))
    np.testing.assert_array_equal(served.classes, CLASSES)


def test_served_weights_are_small():
    assert len(learned(dim=1280).weights().to_bytes()) < 100_000


def test_never_labelled_classes_keep_their_share():
    probabilities = learned().weights().predict_proba(np.random.default_rng(1).normal(size=(9, 12)))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[:, 5:], 1 / 47)


def test_weights_may_apply_to_the_signed_roots_of_features():
    X = np.random.default_rng(1).normal(size=(5000, 3))
    on_roots = linear(coef=np.eye(2, 3), scale="root").predict_proba(X)
    np.testing.assert_allclose(on_roots, linear(coef=np.eye(2, 3)).predict_proba(signed_root(X)), rtol=0, atol=1e-12)
    small = linear(coef=np.eye(2, 3), scale="root").predict_proba(X.astype(np.float16))
    np.testing.assert_allclose(small, on_roots, atol=1e-3)


def test_weights_saved_before_features_could_be_rooted_are_still_read():
    old = Weights.from_bytes(repacked(linear().to_bytes(), scale=None))
    np.testing.assert_array_equal(old.predict_proba(np.eye(3)), linear().predict_proba(np.eye(3)))


def test_logits_of_any_size_are_safe():
    for link in ("softmax", "one-vs-rest"):
        weights = linear(coef=np.array([[1e5], [-1e5]]), link=link)
        np.testing.assert_allclose(weights.predict_proba([[1.0], [-1.0]]), [[1, 0], [0, 1]], atol=1e-12)
        both_unlikely = linear(coef=np.array([[-1e5], [-1e5]]), link=link)
        np.testing.assert_allclose(both_unlikely.predict_proba([[1.0]]), [[0.5, 0.5]])


def test_one_hidden_layer_survives_being_saved():
    random = np.random.default_rng(0)
    weights = MLPWeights(
        CLASSES[:3],
        random.normal(size=(4, 5)),
        random.normal(size=5),
        random.normal(size=(5, 3)),
        random.normal(size=3),
    )
    X = random.normal(size=(9, 4))
    served = Weights.from_bytes(weights.to_bytes())
    assert isinstance(served, MLPWeights)
    np.testing.assert_array_equal(served.predict_proba(X), weights.predict_proba(X))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": np.array("quadratic")},
        {"kind": None},
        {"coef": None},
        {"extra": np.zeros(2)},
        {"coef": np.zeros((3, 3))},
        {"coef": np.zeros((2, 0))},
        {"coef": np.zeros((2, 3), np.float32)},
        {"coef": np.array([[1, 2, np.nan], [1, 2, 3]])},
        {"intercept": np.array([0, np.inf])},
        {"intercept": np.zeros(3)},
        {"temperature": np.array(0.0)},
        {"temperature": np.array(np.nan)},
        {"temperature": np.ones(2)},
        {"reserved": np.array([0.5, -0.5])},
        {"reserved": np.array([0.4, 0.4])},
        {"reserved": np.array([0.0, 1.5])},
        {"classes": np.array(["a", "a"])},
        {"classes": np.array(["a"])},
        {"classes": np.array([0.5, 1.5])},
        {"classes": np.array([["a", "b"]])},
        {"link": np.array("magic")},
        {"scale": np.array("magic")},
    ],
)
def test_saved_weights_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match=r"weights|Weights"):
        Weights.from_bytes(repacked(linear().to_bytes(), **changes))


def test_a_pickle_inside_is_refused():
    with pytest.raises(ValueError, match="not saved weights"):
        Weights.from_bytes(repacked(linear().to_bytes(), classes=np.array(["a", None], dtype=object)))


def test_a_size_that_is_only_claimed_is_refused():
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 1 << 20)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("coef.npy", header.getvalue())
    with pytest.raises(ValueError, match="not saved weights"):
        Weights.from_bytes(file.getvalue())


def test_compressed_weights_are_refused():
    file = io.BytesIO()
    np.savez_compressed(file, coef=np.zeros(10_000_000))
    with pytest.raises(ValueError, match="compressed"):
        Weights.from_bytes(file.getvalue())


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_garbage_is_a_value_error(data):
    whole = linear().to_bytes()
    garbage = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.integers(0, len(whole) - 1).map(lambda end: whole[:end]),
            st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)).map(
                lambda change: whole[: change[0]] + bytes([whole[change[0]] ^ change[1]]) + whole[change[0] + 1 :]
            ),
        )
    )
    try:
        weights = Weights.from_bytes(garbage)
    except ValueError:
        return
    # A flipped bit may hit what the format does not read.
    np.testing.assert_array_equal(weights.predict_proba(np.eye(3)), linear().predict_proba(np.eye(3)))


@pytest.mark.parametrize("X", [[1.0, 2.0, 3.0], [[1.0, 2.0]], [[1.0, 2.0, np.nan]], np.zeros((0, 2))])
def test_wrong_features_are_refused(X):
    with pytest.raises(ValueError, match="X "):
        linear().predict_proba(X)


def test_no_features_give_no_probabilities():
    assert linear().predict_proba(np.zeros((0, 3))).shape == (0, 2)
