"""Roll back: an older version serves at once, learning goes on, and the past is told truly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import redis
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.events import ProjectFacts, ProjectTold
from backend.learner import Learners
from backend.rollback import CanNotServe, release, roll_back
from backend.study import study
from backend.update import update, weights_of
from backend.versions import Version
from tests.parts import CONFIG, FACTS, Classroom, make_services
from tests.test_show import Desk
from tests.test_show import desk as desk

pytestmark = pytest.mark.servers


def learn(classroom: Classroom, *task_ids: int) -> Version:
    for task_id in task_ids:
        classroom.annotate(task_id)
    version = update(classroom.services, Learners(), 1)
    assert version is not None
    return version


def test_the_next_prediction_says_so_and_is_the_older_one(classroom: Classroom) -> None:
    services = classroom.services
    client = TestClient(create_app(services.settings, services))

    def predicted() -> tuple[str, list[object]]:
        answer = client.post("/predict", json=classroom.predict_body(20, 21)).json()
        return answer["model_version"], [each["result"] for each in answer["results"]]

    learn(classroom, 1, 2, 3)
    before = predicted()
    learn(classroom, *range(4, 15))
    after = predicted()
    assert (before[0], after[0]) == ("tandem-v1", "tandem-v2")
    assert before[1] != after[1]
    roll_back(services, classroom.project, 1, "Ada")
    assert predicted() == before
    release(services, classroom.project, "Ada")
    assert predicted() == after


def test_who_chose_what_serves_is_kept_and_the_same_choice_twice_is_one(classroom: Classroom) -> None:
    services = classroom.services
    learn(classroom, 1)
    learn(classroom, 2)
    first = roll_back(services, classroom.project, 1, "Ada", "the last batch was mislabelled")
    assert roll_back(services, classroom.project, 1, "Grace") == first
    assert release(services, classroom.project, "Grace") is not None
    assert release(services, classroom.project, "Grace") is None
    told = [(pin.version, pin.who, pin.why) for pin in services.projects.pins(1, 10)]
    assert told == [(None, "Grace", ""), (1, "Ada", "the last batch was mislabelled")]


def test_a_change_of_what_serves_is_shown_and_told_to_mlflow(classroom: Classroom) -> None:
    services = classroom.services
    learn(classroom, 1)
    learn(classroom, 2)
    redis.Redis.from_url(services.settings.redis).flushall()
    roll_back(services, classroom.project, 1, "Ada")
    assert services.jobs.depth() == {"learn": 0, "chores": 2}


def test_learning_and_measuring_go_on_underneath(classroom: Classroom) -> None:
    services = classroom.services
    learn(classroom, *range(1, 8))
    learn(classroom, 8)
    roll_back(services, classroom.project, 1, "Ada")
    newest = learn(classroom, 9, 10)
    champion = services.versions.champion(1)
    assert champion is not None
    assert (newest.number, champion.number) == (3, 1)
    assert {outcome.version for outcome, _ in services.outcomes.all(1)} == {1, 2}
    assert study(services, Learners(), 1) is not None
    made = update(services, Learners(), 1)
    assert made is not None
    assert services.versions.champion(1) == champion


def test_the_weights_of_a_version_rolled_back_to_are_learned_again_when_they_were_dropped(
    tmp_path: Path, valkey: str
) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, keep_weights=1))
    services = classroom.services
    first = learn(classroom, *range(1, 8))
    kept = weights_of(services, first)
    annotation = classroom.annotate(8)
    update(services, Learners(), 1)
    classroom.annotate(8, "sad", annotation)
    classroom.annotate(1, "fear", 1)
    update(services, Learners(), 1)
    assert services.versions.stored_weights(1, 1) is None
    roll_back(services, classroom.project, 1, "Ada")
    champion = services.versions.champion(1)
    assert champion is not None
    again = weights_of(services, champion)
    assert kept is not None
    assert again is not None
    vectors = np.stack(
        list(services.features.cached(1, [task.image or "" for task in classroom.tasks.values()]).vectors.values())
    )
    np.testing.assert_allclose(again.predict_proba(vectors), kept.predict_proba(vectors), atol=1e-9)


def test_a_pinned_version_keeps_its_weights_whatever_comes_after(tmp_path: Path, valkey: str) -> None:
    redis.Redis.from_url(valkey).flushall()
    classroom = Classroom(make_services(tmp_path, valkey, keep_weights=2))
    learn(classroom, 1)
    roll_back(classroom.services, classroom.project, 1, "Ada")
    for task in range(2, 6):
        learn(classroom, task)
    held = [classroom.services.versions.stored_weights(1, number) is not None for number in range(1, 6)]
    assert held == [True, False, False, True, True]


def test_what_there_is_not_can_not_serve(classroom: Classroom) -> None:
    services = classroom.services
    with pytest.raises(CanNotServe, match="nothing was learned so far"):
        roll_back(services, classroom.project, 1, "Ada")
    learn(classroom, 1)
    with pytest.raises(CanNotServe, match="the versions 1 to 1"):
        roll_back(services, classroom.project, 2, "Ada")
    assert services.projects.pins(1, 10) == []


def test_a_version_that_knows_a_class_which_is_gone_can_not_serve(classroom: Classroom) -> None:
    services = classroom.services
    learn(classroom, 1)
    learn(classroom, 2)
    roll_back(services, classroom.project, 1, "Ada")
    fewer = CONFIG.replace('<Choice value="fear"', '<Choice value="dread"')
    assert fewer != CONFIG
    services.ledger.tell(ProjectTold(ProjectFacts(FACTS.id, FACTS.created, FACTS.title, fewer)))
    newest = update(services, Learners(), 1)
    champion = services.versions.champion(1)
    assert champion == newest
    (freed, _) = services.projects.pins(1, 10)
    assert (freed.version, freed.who) == (None, None)
    assert "'fear'" in freed.why
    with pytest.raises(CanNotServe, match="'fear'"):
        roll_back(services, classroom.project, 1, "Ada")


def test_a_version_of_another_encoder_can_not_serve(classroom: Classroom) -> None:
    services = classroom.services
    learn(classroom, 1)
    old = services.versions.get(1, 1)
    assert old is not None
    services.versions.commit(Version(1, 2, 2, 0.0, "another encoder", old.head, old.classes, old.metrics), weights=b"")
    with pytest.raises(CanNotServe, match="those of today are by another encoder"):
        roll_back(services, classroom.project, 1, "Ada")


def test_label_studio_is_shown_the_older_version_and_the_newest_again(desk: Desk) -> None:
    services = desk.services
    desk.annotate(6)
    desk.learn()
    desk.show_all()
    desk.annotate(2)
    desk.learn()
    desk.show_all()
    assert services.projects.get(desk.project_id).shown == "tandem-v2"
    roll_back(services, desk.project, 1, "Ada")
    assert desk.show_all() == len(services.ledger.pool(desk.project_id)) == 16
    again = desk.project.shown
    assert again is not None
    assert again.startswith("tandem-v1")
    assert desk.label_studio.project(desk.number).model_version == again
    asked = desk.label_studio.next_task(desk.number)
    assert asked is not None
    assert again in {each["model_version"] for each in asked["predictions"]}
    desk.annotate(1)
    desk.learn()
    assert desk.project.shown == again
    assert services.versions.newest(desk.project_id) != services.versions.champion(desk.project_id)
    desk.show_all()
    assert desk.project.shown == again
    release(services, desk.project, "Ada")
    assert desk.show_all() == 15
    assert desk.label_studio.project(desk.number).model_version == desk.project.shown == "tandem-v3"


def test_what_was_shown_until_a_roll_back_stays_for_those_who_have_it_open(desk: Desk) -> None:
    services = desk.services
    desk.annotate(6)
    desk.learn()
    desk.show_all()
    desk.annotate(2)
    desk.learn()
    desk.show_all()
    roll_back(services, desk.project, 1, "Ada")
    services.settings.show_keep = 3600.0
    desk.show_all()
    before = desk.versions()
    release(services, desk.project, "Ada")
    desk.annotate(1)
    desk.learn()
    desk.show_all()
    assert before.keys() <= desk.versions().keys()
