"""The overview tells what was measured, of how much, and how sure that is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backend.database import annotation_table, projects, writing
from backend.events import AnnotationsDeleted, ProjectTold
from backend.insight import overview as module
from backend.insight.overview import Measured, Mistake, overview, rate
from backend.services import Services
from tests.insight.measured import find, measure
from tests.parts import CONFIG, FACTS, Classroom, make_services


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return make_services(tmp_path, domain_field="camera")


def measured(classroom: Classroom) -> Measured:
    project = classroom.services.projects.get(classroom.project.id)
    told = overview(classroom.services, project).measured
    assert told is not None
    return told


def test_without_a_label_there_is_nothing_to_tell(classroom: Classroom) -> None:
    now = overview(classroom.services, classroom.project)
    assert (now.tasks, now.labelled, now.labels, now.version) == (len(classroom.tasks), 0, 0, "tandem-v0")
    assert (now.measured, now.sample, now.improvement, now.forecast, now.studied_at) == (None,) * 5
    assert (now.pace.with_prediction, now.pace.without) == (None, None)
    assert {each.name for each in now.classes} == set(classroom.project.classes)
    assert all(each.labels == 0 and each.found.share is None for each in now.classes)


def test_labels_in_force_are_counted_by_class_and_tasks_once(classroom: Classroom) -> None:
    classroom.annotate(1, "happy")
    classroom.annotate(1, "sad", person=2)
    classroom.annotate(2, "happy")
    gone = classroom.annotate(3, "fear")
    classroom.services.ledger.tell(AnnotationsDeleted(FACTS, (gone,)))
    now = overview(classroom.services, classroom.project)
    assert (now.labels, now.labelled) == (3, 2)
    assert {each.name: each.labels for each in now.classes if each.labels} == {"happy": 2, "sad": 1}


def test_accuracy_is_that_of_the_newest_labels_and_of_all(classroom: Classroom) -> None:
    measure(classroom.services, [("sad", "happy")] * 50 + [("sad", "sad")] * 100)
    told = measured(classroom)
    assert (told.labels, told.looked_at) == (150, 150)
    assert (told.recent.count, told.recent.share) == (100, 1.0)
    assert (told.all.hits, told.all.count) == (100, 150)
    assert told.all.low < 2 / 3 < told.all.high
    assert (told.sets.hits, told.sets.count) == (100, 100)


def test_only_the_newest_are_looked_at_and_that_is_said(classroom: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEASURED", 10)
    measure(classroom.services, [("sad", "happy")] * 5 + [("sad", "sad")] * 10)
    told = measured(classroom)
    assert (told.labels, told.looked_at, told.all.share) == (15, 10, 1.0)
    assert told.by_labels[-1].labels == 15


def test_each_point_of_the_curve_is_of_the_labels_up_to_it(classroom: Classroom) -> None:
    measure(classroom.services, [("sad", "happy")] * 50 + [("sad", "sad")] * 50)
    curve = measured(classroom).by_labels
    assert [point.labels for point in curve] == sorted({point.labels for point in curve})
    assert len(curve) <= module.POINTS
    assert (curve[0].labels, curve[0].rate.share) == (50, 0.0)
    assert (curve[-1].labels, curve[-1].rate.share) == (100, 1.0)
    assert all(point.rate.hits == point.labels - 50 for point in curve)


def test_the_first_few_labels_are_one_point(classroom: Classroom) -> None:
    measure(classroom.services, [("sad", "sad"), ("sad", "happy")])
    told = measured(classroom)
    assert [(point.labels, point.rate.hits, point.rate.count) for point in told.by_labels] == [(2, 1, 2)]


def test_by_time_labels_of_the_same_stretch_are_put_together(classroom: Classroom) -> None:
    start = 3600 * 1000.0
    measure(classroom.services, [("sad", "sad")] * 20 + [("sad", "happy")] * 20, start=start)
    told = measured(classroom)
    assert told.step == 600
    assert [(point.at - start, point.rate.hits, point.rate.count) for point in told.by_time] == [
        (0, 9, 9),
        (600, 10, 10),
        (1200, 1, 10),
        (1800, 0, 10),
        (2400, 0, 1),
    ]


def test_sureness_is_held_against_how_often_it_was_right(classroom: Classroom) -> None:
    measure(classroom.services, [("sad", "sad"), ("sad", "happy")] * 10, confidence=0.9)
    (only,) = measured(classroom).calibration.bins
    assert (only.low, only.high, only.rate.hits, only.rate.count) == (0.9, 1.0, 10, 20)
    assert only.confidence == pytest.approx(0.9)
    assert measured(classroom).calibration.error == pytest.approx(0.4)


def test_what_is_taken_for_what_is_counted(classroom: Classroom) -> None:
    measure(classroom.services, [("sad", "fear")] * 3 + [("sad", "sad")] * 2 + [("fear", "sad")])
    told = measured(classroom).confusion
    assert told is not None
    assert (told.classes, told.counts, told.others) == (["fear", "sad"], [[0, 1], [3, 2]], 0)
    assert told.mistakes == [Mistake("sad", "fear", 3), Mistake("fear", "sad", 1)]
    classes = {each.name: each for each in overview(classroom.services, classroom.project).classes}
    assert (classes["sad"].found, classes["sad"].right) == (rate(2, 5), rate(2, 3))


def test_rare_classes_are_left_out_of_the_table_and_counted(
    classroom: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLASSES", 2)
    measure(classroom.services, [("sad", "fear")] * 3 + [("fear", "fear")] + [("happy", "sad")])
    told = measured(classroom).confusion
    assert told is not None
    assert (told.classes, told.others) == (["fear", "sad"], 1)


def test_where_several_can_be_chosen_each_choice_counts_by_itself(classroom: Classroom) -> None:
    config = CONFIG.replace('choice="single"', 'choice="multiple"')
    classroom.services.ledger.tell(ProjectTold(replace(FACTS, label_config=config)))
    measure(
        classroom.services,
        [(json.dumps(["happy", "surprise"]), json.dumps(["happy"])), (json.dumps(["sad"]), json.dumps(["sad"]))],
    )
    now = overview(classroom.services, classroom.services.projects.get(1))
    assert now.several
    assert now.measured is not None
    assert (now.measured.confusion, now.measured.all.hits) == (None, 1)
    classes = {each.name: each for each in now.classes}
    assert (classes["surprise"].found, classes["happy"].right) == (rate(0, 1), rate(1, 1))


def test_seconds_are_told_apart_by_whether_a_prediction_stood_there(classroom: Classroom) -> None:
    seen = [None, "tandem-v0", None, "tandem-v3", "tandem-v4", "tandem-v4", None]
    seconds = [9.0, 11.0, 13.0, 2.0, 4.0, 3.0, None]
    for task, person in zip(range(1, 8), (1, 1, 2, 2, 2, 3, 1), strict=True):
        classroom.annotate(task, person=person)
    with writing(classroom.services.engine) as connection:
        for number, (version, lead) in enumerate(zip(seen, seconds, strict=True), start=1):
            where = annotation_table.c.id == number
            connection.execute(
                annotation_table.update().where(where).values(prediction_version=version, lead_time=lead)
            )
    pace = overview(classroom.services, classroom.project).pace
    assert pace.without is not None
    assert pace.with_prediction is not None
    assert (pace.without.count, pace.without.median, pace.without.people) == (3, 11.0, 2)
    assert (pace.with_prediction.count, pace.with_prediction.median, pace.with_prediction.people) == (3, 3.0, 2)
    assert pace.people_in_both == 1
    assert pace.without.order < 0.5 < pace.with_prediction.order


def test_what_the_newest_study_found_is_told_with_how_old_it_is(classroom: Classroom) -> None:
    for task in (1, 2, 3):
        classroom.annotate(task)
    find(
        classroom.services,
        sample={"count": 20, "accuracy": 0.75, "interval": [0.5, 0.9]},
        domains={"hall": {"count": 8, "accuracy": 0.5, "interval": [0.2, 0.8], "log_loss": 1.0}},
        forgetting={
            "domains": ["hall", "yard"],
            "accuracy": [[0.8, 0.1], [0.7, 0.9]],
            "average_accuracy": 0.8,
            "average_forgetting": 0.1,
            "backward_transfer": -0.1,
        },
        forecast={"labels": 60, "ahead": 100, "accuracy": 0.7, "gain": 0.05, "interval": [-0.01, 0.1]},
        shift=[{"kind": "errors", "since": 3, "raised": 9, "evidence": {}, "sentence": "It errs more."}],
    )
    now = overview(classroom.services, classroom.services.projects.get(1))
    assert now.sample == rate(15, 20)
    assert [(each.name, each.count, each.low) for each in now.domains] == [("hall", 8, 0.2)]
    assert now.forgetting is not None
    assert now.forgetting.average_forgetting == 0.1
    assert now.forecast is not None
    assert (now.forecast.gain, now.forecast.low, now.forecast.high) == (0.05, -0.01, 0.1)
    assert [(alarm.kind, alarm.sentence) for alarm in now.alarms] == [("errors", "It errs more.")]
    assert (now.studied_at, now.behind) == (1000.0, 2)


def test_a_study_of_an_older_release_leaves_out_what_it_did_not_look_for(classroom: Classroom) -> None:
    find(classroom.services, people={}, novel=[], doubts=[])
    now = overview(classroom.services, classroom.project)
    assert (now.sample, now.forgetting, now.forecast, now.domains, now.alarms) == (None, None, None, [], [])


def test_what_is_of_another_project_is_left_out(classroom: Classroom) -> None:
    measure(classroom.services, [("sad", "sad")])
    with writing(classroom.services.engine) as connection:
        connection.execute(projects.insert().values(label_studio_id=8, created=1, title="other", label_config=CONFIG))
    other = overview(classroom.services, classroom.services.projects.named(8))
    assert (other.tasks, other.measured) == (0, None)
