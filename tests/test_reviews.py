"""Reviews: what somebody decided about a label is remembered until it is taken back."""

from __future__ import annotations

from dataclasses import replace

from backend.events import AnnotationsTold
from tests.parts import FACTS, Classroom


def test_what_was_confirmed_or_corrected_is_settled_until_it_is_undone(classroom: Classroom) -> None:
    reviews = classroom.services.reviews
    confirmed = reviews.add(1, 3, 30, ("sad",), ("sad",), "ada")
    corrected = reviews.add(1, 4, 40, ("sad",), ("happy",), "ada", [{"id": "x"}])
    assert (confirmed.confirmed, corrected.confirmed) == (True, False)
    assert reviews.settled(1) == {(3, ("sad",)), (4, ("happy",))}
    assert [review.id for review in reviews.newest(1, 10)] == [corrected.id, confirmed.id]
    reviews.undo(confirmed.id, "grace")
    assert reviews.settled(1) == {(4, ("happy",))}
    assert reviews.newest(1, 10) == [corrected]
    undone = reviews.get(1, confirmed.id)
    assert undone is not None
    assert (undone[0].who, undone[0].undone_by) == ("ada", "grace")


def test_the_result_from_before_a_correction_is_kept_whole(classroom: Classroom) -> None:
    result = [{"id": "x", "from_name": "other", "value": {"text": ["a note"]}}]
    review = classroom.services.reviews.add(1, 4, 40, ("sad",), ("happy",), "ada", result)
    assert classroom.services.reviews.get(1, review.id) == (review, result)
    assert classroom.services.reviews.get(2, review.id) is None


def test_a_label_with_label_studios_star_is_settled(classroom: Classroom) -> None:
    annotation_id = classroom.annotate(1)
    starred = replace(classroom.annotations[annotation_id], ground_truth=True, updated_at=50.0)
    classroom.services.ledger.tell(AnnotationsTold(FACTS, (starred,), (classroom.tasks[1],)))
    assert classroom.services.reviews.settled(1) == {(1, (classroom.truth[1],))}
    assert classroom.services.reviews.settled(2) == set()
