"""What serves: the small, frozen end of a head. It needs numpy alone, and is saved without pickle."""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LARGEST_FEATURE = 1e100
"""Beyond it, squares overflow; no backbone comes near."""

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Weights(ABC):
    """A frozen classifier: classes, and what turns features into their probabilities.

    Attributes
    ----------
    classes : numpy.ndarray of str or int, shape (k,)
        In the order of the columns of `predict_proba`.
    """

    kind: ClassVar[str]
    classes: NDArray[Any]

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the feature vectors it takes."""

    @abstractmethod
    def _probabilities(self, features: Floats) -> Floats: ...

    @abstractmethod
    def _check(self) -> None: ...

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"The weights' {field.name} holds values that are not finite.")
        if self.classes.ndim != 1 or self.classes.dtype.kind not in "Ui" or not len(self.classes):
            raise ValueError("The weights' classes must be a list of names or of whole numbers, at least one.")
        if len(np.unique(self.classes)) != len(self.classes):
            raise ValueError("The weights name a class twice.")
        self._check()

    def predict_proba(self, X: ArrayLike) -> Floats:  # noqa: N803
        """Return probabilities.

        Parameters
        ----------
        X : array-like of float, shape (n, d)
            Features. Those of a large pool are best given as float16, and then multiplied as float32: they say no more.

        Returns
        -------
        numpy.ndarray of float64, shape (n, k)
            A row per sample, a column per class. A row sums to 1, unless several classes can be there at once.

        Raises
        ------
        ValueError
            When `X` has another shape or holds values that are not finite.
        """
        small = isinstance(X, np.ndarray) and X.dtype == np.float16
        return self._probabilities(as_features(X, self.dim, np.float32 if small else np.float64))

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return the likeliest class of each sample, shape (n,)."""
        return cast("NDArray[Any]", self.classes[self.predict_proba(X).argmax(axis=1)])

    def to_bytes(self) -> bytes:
        """Return the weights as the bytes of an uncompressed npz file."""
        file = io.BytesIO()
        np.savez(file, kind=np.array(self.kind), **{field.name: getattr(self, field.name) for field in fields(self)})
        return file.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Weights:
        """Read weights of any kind; nothing in them is trusted or executed.

        Raises
        ------
        ValueError
            When `data` is not what `to_bytes` gave: cut off, of an unknown kind, of wrong shapes or not finite.
        """
        arrays = read_arrays(data, "not saved weights")
        name = str(arrays.pop("kind", ""))
        kind = {kind.kind: kind for kind in (LinearWeights, MLPWeights)}.get(name)
        if kind is None:
            raise ValueError(f"Weights of the kind {name!r} are not known.")
        return kind.from_arrays(arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Weights:
        """Build weights of this kind from arrays named as its attributes; scalars come as arrays without dimensions."""
        wanted = {field.name for field in fields(cls)}
        # Weights saved by an older version lack what was added since with a default.
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= set(arrays) <= wanted:
            raise ValueError(f"The weights hold {sorted(arrays)} instead of {sorted(wanted)}.")
        return cls(**{name: array if array.ndim else array.item() for name, array in arrays.items()})


@dataclass(frozen=True, eq=False)
class LinearWeights(Weights):
    """Logits that are linear in the features.

    Attributes
    ----------
    coef : numpy.ndarray of float64, shape (k, d)
        Rows of never-labelled classes are not used.
    intercept : numpy.ndarray of float64, shape (k,)
        ``(X @ coef.T + intercept) / temperature`` are the logits.
    temperature : float
        Divides the logits.
    reserved : numpy.ndarray of float64, shape (k,)
        For a class that was never labelled, its probability whatever the features; 0 for the others, which share the
        rest.
    link : {"softmax", "one-vs-rest", "sigmoid"}
        How logits become probabilities: against each other; each by its own sigmoid, then divided by their sum; or each
        by its own sigmoid alone, where several classes can be there at once. Then nothing is shared, and so nothing
        reserved.
    scale : {"identity", "root"}
        What the coefficients apply to: the features, or their signed roots (see `signed_root`).
    """

    kind: ClassVar[str] = "linear"
    coef: Floats
    intercept: Floats
    temperature: float
    reserved: Floats
    link: Literal["softmax", "one-vs-rest", "sigmoid"] = "softmax"
    scale: Literal["identity", "root"] = "identity"

    @property
    def dim(self) -> int:
        """Length of the feature vectors it takes."""
        return int(self.coef.shape[1])

    def _check(self) -> None:
        count = len(self.classes)
        _check_floats("coef", self.coef, (count, None))
        _check_floats("intercept", self.intercept, (count,))
        _check_floats("reserved", self.reserved, (count,))
        if not isinstance(self.temperature, float) or not 0 < self.temperature < np.inf:
            raise ValueError("The weights' temperature must be a positive number.")
        total = self.reserved.sum()
        if (self.reserved < 0).any() or total > 1 + 1e-9 or (total < 1 - 1e-9 and (self.reserved > 0).all()):
            raise ValueError("The weights' reserved probabilities must lie between 0 and 1, and so must their sum.")
        if self.link not in LINKS:
            raise ValueError(f"The weights' link {self.link!r} is none of {', '.join(LINKS)}.")
        if self.link == "sigmoid" and self.reserved.any():
            raise ValueError("Weights whose classes do not share their probability reserve none.")
        if self.scale not in ("identity", "root"):
            raise ValueError(f"The weights' scale {self.scale!r} is neither identity nor root.")

    def _probabilities(self, features: Floats) -> Floats:
        probabilities = np.tile(self.reserved, (len(features), 1))
        labelled = self.reserved == 0
        if labelled.any():
            coef = self.coef[labelled].astype(features.dtype)
            products = features @ coef.T if self.scale == "identity" else _root_products(features, coef)
            logits = (products + self.intercept[labelled]) / self.temperature
            probabilities[:, labelled] = (1 - self.reserved.sum()) * LINKS[self.link](logits)
        return probabilities


@dataclass(frozen=True, eq=False)
class MLPWeights(Weights):
    """One hidden layer of rectified units, then softmax.

    Attributes
    ----------
    hidden_coef : numpy.ndarray of float64, shape (d, h)
    hidden_intercept : numpy.ndarray of float64, shape (h,)
    coef : numpy.ndarray of float64, shape (h, k)
    intercept : numpy.ndarray of float64, shape (k,)
    """

    kind: ClassVar[str] = "mlp"
    hidden_coef: Floats
    hidden_intercept: Floats
    coef: Floats
    intercept: Floats

    @property
    def dim(self) -> int:
        """Length of the feature vectors it takes."""
        return int(self.hidden_coef.shape[0])

    def _check(self) -> None:
        _check_floats("hidden_coef", self.hidden_coef, (None, None))
        units = self.hidden_coef.shape[1]
        _check_floats("hidden_intercept", self.hidden_intercept, (units,))
        _check_floats("coef", self.coef, (units, len(self.classes)))
        _check_floats("intercept", self.intercept, (len(self.classes),))

    def _probabilities(self, features: Floats) -> Floats:
        hidden = np.maximum(features @ self.hidden_coef.astype(features.dtype) + self.hidden_intercept, 0)
        return softmax(hidden @ self.coef + self.intercept)


def signed_root(features: Floats) -> Floats:
    """Return the root of each feature, with its sign.

    Features of a rectified network are skewed and few of them large; their roots are nearer to what a linear
    discriminant assumes (Perronnin, Sanchez and Mensink, Improving the Fisher Kernel, ECCV 2010).

    Examples
    --------
    >>> signed_root(np.array([[4.0, -9.0]]))
    array([[ 2., -3.]])
    """
    return cast(Floats, np.copysign(np.sqrt(np.abs(features)), features))


def _root_products(features: Floats, coef: Floats) -> Floats:
    """Multiply the signed roots of features with coefficients; a large pool's roots are never all in memory."""
    products = np.empty((len(features), len(coef)), dtype=features.dtype)
    for start in range(0, len(features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        products[rows] = signed_root(features[rows]) @ coef.T
    return products


def softmax(logits: Floats) -> Floats:
    """Turn logits, shape (n, k), to probabilities; differences of any size are safe."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return cast(Floats, shares / shares.sum(axis=1, keepdims=True))


def one_vs_rest(logits: Floats) -> Floats:
    """Turn each logit to a probability of its own, then divide by their sum, as scikit-learn's linear classifiers."""
    # Taken off the row's greatest first: all sigmoids of a row may be too small for a float.
    log_shares = -np.logaddexp(0, -logits)
    return softmax(log_shares)


def sigmoid(logits: Floats) -> Floats:
    """Turn each logit to a probability of its own."""
    return cast(Floats, np.exp(-np.logaddexp(0, -logits)))


LINKS = {"softmax": softmax, "one-vs-rest": one_vs_rest, "sigmoid": sigmoid}
"""What turns logits to probabilities; see `LinearWeights.link`."""


def as_features(X: ArrayLike, dim: int | None, dtype: type[np.floating[Any]] = np.float64) -> Floats:  # noqa: N803
    """Return features as `dtype`, shape (n, d), or say what is wrong with them.

    Raises
    ------
    ValueError
        When they are not a table of finite numbers, or not of `dim` columns.
    """
    features: Floats = np.asarray(X, dtype=dtype)
    if features.ndim != 2:
        raise ValueError(f"X must be a table of a row per sample, not of shape {features.shape}.")
    if dim is not None and features.shape[1] != dim:
        raise ValueError(f"X has {features.shape[1]} features, but {dim} were learned.")
    if features.shape[1] == 0:
        raise ValueError("X has no features.")
    # NaN goes through both; no copy is made of a large pool.
    largest = float(np.maximum(features.max(initial=0), -features.min(initial=0)))
    if not np.isfinite(largest):
        raise ValueError("X holds values that are not finite (NaN or infinity).")
    if largest > LARGEST_FEATURE:
        raise ValueError(f"X holds values beyond {LARGEST_FEATURE:g}; their squares overflow, so scale the features.")
    return features


def _check_floats(name: str, array: object, shape: tuple[int | None, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.float64 or array.ndim != len(shape):
        raise ValueError(f"The weights' {name} must be a float64 array of {len(shape)} dimensions.")
    if any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)) or 0 in array.shape:
        raise ValueError(f"The weights' {name} has the shape {array.shape}, which doesn't fit the rest.")


def read_arrays(data: bytes, otherwise: str) -> dict[str, NDArray[Any]]:
    """Read what `numpy.savez` wrote: nothing in it is executed, and no size is believed that it only claims to have.

    Parameters
    ----------
    data : bytes
        An uncompressed npz file of numbers and names.
    otherwise : str
        What to say that the bytes are, where they are something else.

    Raises
    ------
    ValueError
        When they are.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{entry.filename} is compressed.")
                content = archive.read(entry)
                file = io.BytesIO(content)
                if npy.read_magic(file) != (1, 0):
                    raise ValueError(f"{entry.filename} is of an unknown version.")
                shape, _, dtype = npy.read_array_header_1_0(file)
                if dtype.kind not in "Uif" or dtype.itemsize * int(np.prod(shape)) != len(content) - file.tell():
                    raise ValueError(f"{entry.filename} is not as long as it claims.")
                file.seek(0)
                arrays[entry.filename.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OverflowError, NotImplementedError, OSError) as error:
        raise ValueError(f"These bytes are {otherwise}: {error}") from error
    return arrays
