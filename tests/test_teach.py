"""Teach: a picture becomes a labelled task of a real Label Studio, once, and is learned like any other."""

from __future__ import annotations

from io import BytesIO

import httpx
import pytest
from PIL import Image

from backend.images import content_hash
from backend.insight.trial import taught_lately
from backend.teach import CanNotTeach, known_task, teach
from tests.parts import DEMO
from tests.test_show import Desk
from tests.test_show import desk as desk

pytestmark = pytest.mark.servers


def fresh(name: str) -> bytes:
    """Return an image that the desk's project does not have."""
    return sorted((DEMO / name).glob("*.png"))[6].read_bytes()


def test_a_picture_becomes_a_labelled_task_that_is_learned_and_known_from_then_on(desk: Desk) -> None:
    services, data = desk.services, fresh("sad")
    before = desk.tasks().keys()
    taught = teach(services, desk.project, data, ["sad"], "Ada")
    assert taught.uploaded
    assert {taught.task} == desk.tasks().keys() - before
    task = desk.tasks()[taught.task]
    address = f"{desk.label_studio.url}{task['data']['image']}"
    answer = httpx.get(address, headers=desk.label_studio.authorization())
    assert content_hash(answer.content) == content_hash(data)
    desk.learn()
    (label,) = services.ledger.in_force(desk.project_id).values()
    assert (label.task_id, label.annotation_id, label.label) == (taught.task, taught.annotation, "sad")
    known = known_task(services, desk.project_id, content_hash(data))
    assert known is not None
    assert (known.task, known.labelled) == (taught.task, True)
    with pytest.raises(CanNotTeach, match=f"task {taught.task} already"):
        teach(services, desk.project, data, ["happy"], "Grace")
    (lately,) = taught_lately(services, desk.project)
    assert (lately.task, lately.labels, lately.who) == (taught.task, ("sad",), "Ada")


def test_a_picture_that_is_a_task_already_is_labelled_there(desk: Desk) -> None:
    desk.sync()
    desk.show()
    before = desk.tasks().keys()
    data = sorted((DEMO / "happy").glob("*.png"))[0].read_bytes()
    taught = teach(desk.services, desk.project, data, ["happy"], "Ada")
    assert not taught.uploaded
    assert desk.tasks().keys() == before
    assert desk.truth[taught.task] == "happy"
    assert len(desk.tasks()[taught.task]["annotations"]) == 1


def test_a_format_that_label_studio_does_not_take_is_uploaded_as_another(desk: Desk) -> None:
    file = BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "TIFF")
    taught = teach(desk.services, desk.project, file.getvalue(), ["fear"], "Ada")
    assert str(desk.tasks()[taught.task]["data"]["image"]).endswith(".png")
