"""Try: any picture is held against what was learned, and nothing of it is kept."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from backend.database import features, images, reading
from backend.events import AnnotationsDeleted, ProjectFacts, ProjectTold
from backend.images import ImageUnreadable
from backend.insight.gallery import Galleries, Gallery
from backend.insight.trial import Trial, trial
from backend.learner import Learners
from backend.predict import Champions
from backend.study import study
from backend.update import update
from tests.parts import CONFIG, DEMO, FACTS, Classroom, make_services

pytestmark = pytest.mark.servers


def picture_of(classroom: Classroom, task_id: int) -> bytes:
    return (DEMO / str(classroom.tasks[task_id].image).partition("=")[2]).read_bytes()


def look(classroom: Classroom, data: bytes, similar: int = 6) -> Trial:
    return trial(classroom.services, Champions(), Galleries(), classroom.project, data, similar)


def learn(classroom: Classroom, *task_ids: int) -> None:
    for task_id in task_ids:
        classroom.annotate(task_id)
    update(classroom.services, Learners(), 1)


def test_before_the_first_label_it_says_that_nothing_was_learned(classroom: Classroom) -> None:
    seen = look(classroom, picture_of(classroom, 1))
    assert (seen.version, seen.chosen, seen.similar, seen.searched) == (None, (), (), 0)
    assert seen.told == "Nothing was learned so far."


def test_it_tells_the_class_with_probabilities_and_finds_the_labelled_picture_itself(classroom: Classroom) -> None:
    learn(classroom, *range(1, 15))
    seen = look(classroom, picture_of(classroom, 3), similar=4)
    assert seen.version == "tandem-v1"
    assert seen.chosen == (classroom.truth[3],) == (seen.probabilities[0].name,)
    assert sum(each.probability for each in seen.probabilities) == pytest.approx(1)
    assert seen.ambiguity is not None
    assert (seen.similar[0].task, seen.similar[0].labels) == (3, (classroom.truth[3],))
    assert seen.similar[0].likeness == pytest.approx(1, abs=1e-3)
    likeness = [each.likeness for each in seen.similar]
    assert likeness == sorted(likeness, reverse=True)
    assert (len(seen.similar), seen.searched) == (4, 14)
    assert seen.known is not None
    assert (seen.known.task, seen.known.labelled) == (3, True)


def test_set_and_novelty_are_unknown_until_a_study_tells_them(classroom: Classroom) -> None:
    services = classroom.services
    learn(classroom, *range(1, 25))
    before = look(classroom, picture_of(classroom, 26))
    assert (before.likely, before.coverage, before.novelty, before.novel) == ((), None, None, False)
    study(services, Learners(), 1)
    update(services, Learners(), 1)
    after = look(classroom, picture_of(classroom, 26))
    assert after.version == "tandem-v2"
    assert after.coverage == 0.9
    assert set(after.likely) <= {each.name for each in after.probabilities}
    assert after.chosen[0] in after.likely
    assert after.novelty is not None
    noise = Image.effect_noise((64, 64), 200)
    file = BytesIO()
    noise.save(file, "PNG")
    assert (look(classroom, file.getvalue()).novelty or 0) > after.novelty


def test_nothing_of_a_picture_is_kept(classroom: Classroom) -> None:
    learn(classroom, 1, 2)

    def kept() -> list[int | None]:
        with reading(classroom.services.engine) as connection:
            return [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in (features, images)]

    before = kept()
    assert look(classroom, picture_of(classroom, 20)).known is None
    assert kept() == before


def test_the_version_rolled_back_to_is_the_one_asked(classroom: Classroom) -> None:
    learn(classroom, 1, 2)
    learn(classroom, 3, 4)
    classroom.services.projects.pin(1, 1, "Ada", "")
    assert look(classroom, picture_of(classroom, 20)).version == "tandem-v1"


def test_several_choices_are_told_each_by_itself(classroom: Classroom) -> None:
    several = CONFIG.replace('choice="single"', 'choice="multiple"')
    classroom.services.ledger.tell(ProjectTold(ProjectFacts(FACTS.id, FACTS.created, FACTS.title, several)))
    learn(classroom, *range(1, 15))
    seen = look(classroom, picture_of(classroom, 3))
    assert all(0 <= each.probability <= 1 for each in seen.probabilities)
    assert set(seen.chosen) == {each.name for each in seen.probabilities if each.probability > 0.5}
    assert (seen.likely, seen.novelty) == ((), None)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"GIF89a, or so it says", "not_an_image"), (b"", "not_an_image"), (b"\x89PNG" * 300_000, "too_large")],
    ids=["no image", "nothing", "too large"],
)
def test_what_is_no_picture_or_too_large_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    classroom = Classroom(make_services(tmp_path, image_max_bytes=1_000_000))
    with pytest.raises(ImageUnreadable) as refused:
        look(classroom, data)
    assert refused.value.reason == reason


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    classroom = Classroom(make_services(tmp_path, image_max_pixels=100))
    with pytest.raises(ImageUnreadable) as refused:
        look(classroom, picture_of(classroom, 1))
    assert refused.value.reason == "too_many_pixels"


def test_the_gallery_follows_labels_that_come_change_and_go(classroom: Classroom) -> None:
    services = classroom.services
    learn(classroom, 1, 2, 3)
    gallery = Gallery(1, services.encoder.id)

    def hung() -> dict[int, tuple[str, ...]]:
        return {each.task: each.names for each in gallery.images(services).labelled}

    assert hung() == {task: (classroom.truth[task],) for task in (1, 2, 3)}
    learn(classroom, 4)
    classroom.annotate(1, "fear", annotation_id=1)
    classroom.annotate(2, "sad", person=2)
    services.ledger.tell(AnnotationsDeleted(FACTS, (3,)))
    assert hung() == {
        1: ("fear",),
        2: tuple(dict.fromkeys((classroom.truth[2], "sad"))),
        4: (classroom.truth[4],),
    }
