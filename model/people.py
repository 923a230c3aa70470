"""Several people on one task: what they say together, and how much each of them is to be believed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy.sparse import csr_array

from model.evaluation import wilson_interval
from model.weights import Floats, softmax

Task = TypeVar("Task", bound=Hashable)
Person = TypeVar("Person", bound=Hashable)
Answer = TypeVar("Answer", bound=Hashable)

TRUSTED = 16.0
"""Right answers that everyone is taken to have given already; with `MISTAKEN`, four of five. In simulated teams of two
to five people, a prior of 20 answers had a lower log-loss than one of 5, and saw who answered against the rest."""

MISTAKEN = 4.0
"""Wrong answers that everyone is taken to have given already."""

OWN_WAY = 10.0
"""Answers per class that it takes before a person's way with that class is believed as much as their accuracy. With 20,
someone who always says the same and someone who guesses were seen too late, with 4 everyone too early."""

_ITERATIONS = 50
LEAST_RELIABILITY = 0.01
"""Nobody is taken to be right, or wrong, more surely than this in a single answer."""

_SETTLED = 1e-4


@dataclass(frozen=True, eq=False)
class Annotator:
    """What is known of one person.

    Attributes
    ----------
    labels : int
        Tasks labelled.
    shared : int
        Those of them that somebody else labelled too.
    agreement : float
        Mean share of the others who said the same, over shared tasks; NaN without any.
    interval : tuple of float
        Wilson's interval of the agreement, at 95 %; from 0 to 1 without shared tasks.
    confusion : numpy.ndarray of float64, shape (k, k)
        How often class j was answered where the truth is probably class i, over shared tasks.
    reliability : float
        Probability that an answer is right, as far as the shared tasks tell.
    """

    labels: int
    shared: int
    agreement: float
    interval: tuple[float, float]
    confusion: Floats
    reliability: float


@dataclass(frozen=True, eq=False)
class Consensus(Generic[Task, Person]):
    """What several people say together.

    Attributes
    ----------
    classes : tuple of str
        In the order of the columns of the soft labels.
    soft_labels : dict of numpy.ndarray of float64, shape (k,)
        For each task, how much it belongs to each class; sums to 1.
    people : dict of Annotator
        By person.
    alpha : float
        Krippendorff's alpha: 1 when all agree, 0 when they agree as often as by chance; NaN when no task is shared, or
        all answers are one class.
    """

    classes: tuple[str, ...]
    soft_labels: dict[Task, Floats]
    people: dict[Person, Annotator]
    alpha: float


def consensus(
    answers: Sequence[tuple[Task, Person, str]], classes: Sequence[str], *, weigh: bool = False
) -> Consensus[Task, Person]:
    """Join the answers of several people, and estimate how reliable each of them is.

    Each person's confusions are estimated together with the true classes by expectation and maximisation (Dawid and
    Skene, Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, Applied Statistics, 1979).
    Maximum likelihood needs many answers: of two people, it ends by believing one of them in all. So each row of a
    person's confusions has a Dirichlet prior (Raykar et al., Learning From Crowds, JMLR 2010) around mistakes spread
    evenly over the classes, at the rate that this person makes them, which has a beta prior of its own. Two people who
    shared few tasks are then believed about equally, and someone is known after dozens of shared tasks. Of two people
    alone nobody can tell who is right: weighing helps from three people on, and with two it is a little worse.

    A task that one person labelled tells nothing of that person's mistakes. It is left out of the estimate, and its
    label stays as given.

    Parameters
    ----------
    answers : sequence of (task, person, label)
        In any order; the same answer given twice counts once. Several labels by one person on one task share that
        person's vote.
    classes : sequence of str
        All classes.
    weigh : bool
        Whether the soft label of a shared task is the probability of each class given who answered what. Otherwise it
        is the share of the votes.

    Raises
    ------
    ValueError
        When a label is none of the classes, or the classes repeat.

    Examples
    --------
    >>> answers = [(1, "ann", "cat"), (1, "bob", "dog"), (2, "ann", "cat")]
    >>> joined = consensus(answers, ["cat", "dog"])
    >>> joined.soft_labels
    {1: array([0.5, 0.5]), 2: array([1., 0.])}
    >>> joined.people["ann"].labels, joined.people["ann"].shared, joined.people["ann"].agreement
    (2, 1, 0.0)
    """
    columns = {label: column for column, label in enumerate(classes)}
    if len(columns) != len(classes):
        raise ValueError("The classes name one twice; name each once.")
    unknown = {label for _, _, label in answers} - columns.keys()
    if unknown:
        raise ValueError(f"An answer must be one of the classes, and {min(unknown)!r} is none.")
    # Sums of floats depend on their order, so that must not be the order of the answers.
    tasks = sorted({task for task, _, _ in answers}, key=repr)
    people = sorted({person for _, person, _ in answers}, key=repr)
    task_row = {task: row for row, task in enumerate(tasks)}
    person_row = {person: row for row, person in enumerate(people)}
    entries = sorted({(task_row[task], person_row[person], columns[label]) for task, person, label in answers})
    row, who, column = np.array(entries, dtype=np.intp).reshape(-1, 3).T

    ballots, ballot = np.unique(row * len(people) + who, return_inverse=True)
    ballot_row, ballot_who = np.divmod(ballots, max(len(people), 1))
    share = 1 / np.bincount(ballot)[ballot]
    voters = np.bincount(ballot_row, minlength=len(tasks))
    shared = voters > 1
    given = csr_array((share, (row, who * len(classes) + column)), shape=(len(tasks), len(people) * len(classes)))
    votes: Floats = csr_array((share, (row, column)), shape=(len(tasks), len(classes))).toarray()
    soft = votes / voters[:, np.newaxis]
    truth, confusion, reliability = _estimate(given[shared], soft[shared], len(people))

    labels = np.bincount(ballot_who, minlength=len(people))
    common = np.bincount(ballot_who[shared[ballot_row]], minlength=len(people))
    agreeing = share * (votes[row, column] - share) / np.maximum(voters[row] - 1, 1)
    agreed = np.bincount(who, agreeing, len(people))
    annotators = {
        person: Annotator(
            labels=int(labels[place]),
            shared=int(common[place]),
            agreement=float(agreed[place] / common[place]) if common[place] else float("nan"),
            interval=wilson_interval(float(agreed[place]), int(common[place])),
            confusion=confusion[place],
            reliability=float(reliability[place]),
        )
        for place, person in enumerate(people)
    }
    if weigh:
        soft[shared] = truth
    alpha = _alpha(votes[shared], float(agreeing.sum()))
    return Consensus(tuple(classes), dict(zip(tasks, soft, strict=True)), annotators, alpha)


def weighted_shares(votes: Sequence[tuple[Answer, float]], classes: int) -> dict[Answer, float]:
    """Return how probable each answer to one task is, given by people of known reliability.

    Where everybody's mistakes are spread evenly over the other classes, an answer's probability is proportional to the
    exponential of its supporters' log-odds (Nitzan and Paroush, Optimal Decision Rules in Uncertain Dichotomous Choice
    Situations, International Economic Review, 1982). Only answers that somebody gave are compared.

    Parameters
    ----------
    votes : sequence of (answer, float)
        Each answer with the probability that the person who gave it is right; see `Annotator.reliability`.
    classes : int
        How many answers there are to choose from.

    Examples
    --------
    >>> {answer: round(share, 2) for answer, share in weighted_shares([("sad", 0.9), ("angry", 0.6)], 2).items()}
    {'angry': 0.14, 'sad': 0.86}
    """
    support: dict[Answer, float] = {}
    for answer, reliability in votes:
        right = min(max(reliability, LEAST_RELIABILITY), 1 - LEAST_RELIABILITY)
        support[answer] = support.get(answer, 0.0) + math.log(right * max(classes - 1, 1) / (1 - right))
    most = max(support.values())
    odds = {answer: math.exp(value - most) for answer, value in sorted(support.items(), key=lambda item: repr(item[0]))}
    return {answer: value / sum(odds.values()) for answer, value in odds.items()}


def _estimate(given: csr_array, shares: Floats, people: int) -> tuple[Floats, Floats, Floats]:
    """Estimate true classes, confusions in counts, and the probability that a person's answer is right.

    Parameters
    ----------
    given : scipy.sparse.csr_array, shape (n, people * k)
        For each shared task, who answered what.
    shares : numpy.ndarray of float64, shape (n, k)
        Shares of the votes, where the estimate starts.
    people : int
        How many there are.

    Returns
    -------
    tuple of numpy.ndarray of float64, shapes (n, k), (people, k, k) and (people,)
    """
    classes = shares.shape[1]
    truth = shares
    for _ in range(_ITERATIONS):
        prior = (truth.sum(axis=0) + 1) / (len(truth) + classes)
        # Columns are true classes, rows are answers.
        counts = (given.T @ truth).reshape(people, classes, classes)
        right = np.trace(counts, axis1=1, axis2=2)
        accuracy = (right + TRUSTED) / (counts.sum(axis=(1, 2)) + TRUSTED + MISTAKEN)
        expected = np.broadcast_to(((1 - accuracy) / max(classes - 1, 1))[:, None, None], counts.shape).copy()
        expected[:, range(classes), range(classes)] = accuracy[:, np.newaxis]
        chances = (counts + OWN_WAY * expected) / (counts.sum(axis=1, keepdims=True) + OWN_WAY)
        logits = given @ np.log(chances).reshape(people * classes, classes) + np.log(prior)
        before, truth = truth, softmax(logits)
        if not len(truth) or np.abs(truth - before).max() < _SETTLED:
            break
    reliability = np.diagonal(chances, axis1=1, axis2=2) @ prior
    return truth, counts.swapaxes(1, 2), reliability


def _alpha(votes: Floats, agreeing: float) -> float:
    """Krippendorff's alpha for names, from the votes of shared tasks and how many of them found an equal.

    Computing Krippendorff's Alpha-Reliability, University of Pennsylvania, 2011, section C.
    """
    total = votes.sum()
    by_chance = total**2 - (votes.sum(axis=0) ** 2).sum()
    if by_chance <= 1e-9 * max(total, 1):
        return float("nan")
    return float(1 - (total - 1) * (total - agreeing) / by_chance)
