"""MLflow: one run and one registered model version for each version, also when a try was cut off."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.request_utils import _cached_get_request_session

from backend.learner import Learners
from backend.log import log, model_name
from backend.projects import Project
from backend.rollback import release, roll_back
from backend.services import Services
from backend.tracking import Tracking
from backend.up.servers import Running
from backend.update import update
from model.weights import Weights
from tests.conftest import S3
from tests.parts import Classroom, make_services

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def connections_of_mlflow() -> Iterator[None]:
    yield
    _cached_get_request_session.cache_clear()
    gc.collect()


@pytest.fixture
def services(tmp_path: Path, valkey: str, mlflow_server: Running) -> Iterator[Services]:
    services = make_services(tmp_path, valkey, mlflow_tracking_uri=mlflow_server.server.address)
    services.jobs.redis.flushall()
    yield services
    services.close()


def renamed(services: Services, title: str) -> Project:
    """Give the project of a test an experiment of its own in the MLflow that all tests share."""
    with services.engine.connect() as connection:
        connection.exec_driver_sql(f"UPDATE projects SET created = {crc32(title.encode())}")
    return services.projects.get(1)


def registered(services: Services, project: Project) -> list[Any]:
    client = MlflowClient(services.settings.mlflow)
    found = client.search_model_versions(f"name = '{model_name(project)}'")
    return sorted(found, key=lambda each: int(each.version))


def test_versions_are_logged_in_order_and_once(services: Services) -> None:
    classroom, learners = Classroom(services), Learners()
    for task_id in (1, 2, 3):
        classroom.annotate(task_id)
        update(services, learners, 1)
    project = renamed(services, "in order")
    assert log(services, 1) == 3
    assert log(services, 1) == 0
    assert [each.tags["tandem.version"] for each in registered(services, project)] == [
        "tandem-v1",
        "tandem-v2",
        "tandem-v3",
    ]
    client = MlflowClient(services.settings.mlflow)
    champion = client.get_model_version_by_alias(model_name(project), "champion")
    run = client.get_run(champion.run_id)
    assert run.data.params["parent"] == "tandem-v2"
    assert run.data.metrics["labels"] == 3
    assert run.data.metrics["prequential/count"] == 2
    assert set(run.data.metrics) >= {"seconds/solve", "ledger_position", "prequential/log_loss"}


@pytest.mark.parametrize("cut", ["_log_batch", "_register"])
def test_a_try_that_was_cut_off_leaves_one_run(services: Services, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    Classroom(services).annotate(1)
    update(services, Learners(), 1)
    project = renamed(services, cut)
    with monkeypatch.context() as broken:
        broken.setattr(Tracking, cut, lambda *_: (_ for _ in ()).throw(RuntimeError("cut off")))
        with pytest.raises(RuntimeError, match="cut off"):
            log(services, 1)
    assert log(services, 1) == 1
    assert len(registered(services, project)) == 1
    client = MlflowClient(services.settings.mlflow)
    experiment = client.get_experiment_by_name(model_name(project))
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_an_mlflow_that_is_gone_is_told_within_its_time_out(tmp_path: Path) -> None:
    tracking = Tracking("http://127.0.0.1:1", timeout=1)
    with pytest.raises(MlflowException):
        tracking.crown("model", "run")


def test_artifacts_on_s3_are_the_weights_that_serve(
    tmp_path: Path, valkey: str, s3_server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    services = make_services(tmp_path, valkey, s3_endpoint_url=s3_server.url)
    services.jobs.redis.flushall()
    Classroom(services).annotate(1)
    update(services, Learners(), 1)
    project = services.projects.get(1)
    client = services.tracking.client
    client.create_experiment(model_name(project), artifact_location="s3://mlflow/of-tests")
    assert log(services, 1) == 1
    (version,) = registered(services, project)
    assert version.source.startswith("s3://mlflow/of-tests/")
    target = tmp_path / "downloaded"
    target.mkdir()
    client.download_artifacts(version.run_id, "head", str(target))
    stored = services.versions.stored_weights(1, 1)
    assert stored is not None
    assert Weights.from_bytes((target / "head" / "weights.npz").read_bytes()).to_bytes() == stored
    services.close()


def test_the_champion_follows_a_roll_back_and_the_newest_again(services: Services) -> None:
    classroom, learners = Classroom(services), Learners()
    for task_id in (1, 2):
        classroom.annotate(task_id)
        update(services, learners, 1)
    project = renamed(services, "rolled back")
    client = MlflowClient(services.settings.mlflow)

    def champion() -> str:
        assert log(services, 1) == 0
        tags = client.get_model_version_by_alias(model_name(project), "champion").tags
        return str(tags["tandem.version"])

    assert log(services, 1) == 2
    assert champion() == "tandem-v2"
    roll_back(services, project, 1, "Ada")
    assert champion() == "tandem-v1"
    release(services, project, "Ada")
    assert champion() == "tandem-v2"
