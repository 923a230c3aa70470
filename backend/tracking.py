"""MLflow: one run and one registered model version per Tandem version. It knows nothing of learning."""

from __future__ import annotations

import json
import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"
VERSION_TAG, PROJECT_TAG = "tandem.version", "tandem.project"
TRIAL = "tandem-doctor"
"""Name of the file, in a folder of the same name, that tells whether artifacts can be written."""


class Tracking:
    """A client of one MLflow.

    Parameters
    ----------
    uri
        Tracking address: a server's, or ``sqlite:///...``.
    timeout
        Seconds to wait for an answer; MLflow's own defaults would block for four minutes.
    s3_endpoint_url
        Address of the S3 server for artifacts that are written directly; empty: Amazon's, or none.
    """

    def __init__(self, uri: str, *, timeout: float = 5.0, s3_endpoint_url: str = "") -> None:
        self.uri = uri
        self._environment = {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(timeout))),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it asks for the run again to print its address
        } | ({"MLFLOW_S3_ENDPOINT_URL": s3_endpoint_url} if s3_endpoint_url else {})
        self._experiments: dict[str, str] = {}
        self._models: set[str] = set()

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; importing it takes more than a second."""
        os.environ.update(self._environment)
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def artifacts(self) -> str:
        """Ask MLflow where it keeps the files of its newest experiment; also tells whether MLflow answers."""
        newest = self.client.search_experiments(max_results=1)
        return str(newest[0].artifact_location) if newest else ""

    def try_artifacts(self, location: str) -> None:
        """Put a small file at a location of artifacts, and take it away again; raises where that is refused."""
        os.environ.update(self._environment)
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(location, tracking_uri=self.uri)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / TRIAL
            file.write_text("Tandem looks whether artifacts can be written; this file may be deleted.\n")
            repository.log_artifact(str(file), TRIAL)
        repository.delete_artifacts(TRIAL)

    def log_version(
        self,
        model: str,
        version: str,
        *,
        parent: str,
        created_at: float,
        params: dict[str, Any],
        metrics: dict[str, float],
        files: dict[str, bytes],
        look_first: bool,
    ) -> str:
        """Write one version down as a run and a registered model version; return the run's id.

        Parameters
        ----------
        model
            Name of the experiment and of the registered model.
        version, parent
            Names of the version and of the one it grew from.
        created_at
            Unix seconds.
        params, metrics
            What is shown in MLflow.
        files
            Small artifacts: name and bytes.
        look_first
            Whether an earlier try may have left a run; it is taken up then, so that there is one run per version.

        Raises
        ------
        mlflow.exceptions.MlflowException
            When MLflow can't be reached or refuses.
        """
        experiment = self._experiment(model)
        run_id, registered = self._left_over(experiment, model, version) if look_first else (None, False)
        if run_id is None:
            tags = {VERSION_TAG: version, "tandem.parent": parent}
            started = round(created_at * 1000)
            run_id = self.client.create_run(experiment, start_time=started, tags=tags, run_name=version).info.run_id
        self._log_batch(run_id, params, metrics, round(created_at * 1000))
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            self.client.log_artifacts(run_id, folder, "head")
        self.client.set_terminated(run_id)
        if not registered:
            self._register(model, version, run_id)
        return run_id

    def crown(self, model: str, run_id: str) -> bool:
        """Let the alias ``champion`` name the model version of run `run_id`; return whether it named another."""
        crowned = self.client.get_registered_model(model).aliases.get(ALIAS)
        for registered in self.client.search_model_versions(f"run_id = '{run_id}'"):
            if str(registered.version) != str(crowned):
                self.client.set_registered_model_alias(model, ALIAS, registered.version)
                return True
        return False

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            known = self.client.get_experiment_by_name(name)
            self._experiments[name] = known.experiment_id if known else self.client.create_experiment(name)
        return self._experiments[name]

    def _left_over(self, experiment: str, model: str, version: str) -> tuple[str | None, bool]:
        runs = self.client.search_runs([experiment], f"tags.`{VERSION_TAG}` = '{version}'", max_results=1)
        if not runs:
            return None, False
        run_id = runs[0].info.run_id
        return run_id, bool(self.client.search_model_versions(f"run_id = '{run_id}'"))

    def _log_batch(self, run_id: str, params: dict[str, Any], metrics: dict[str, float], at: int) -> None:
        from mlflow.entities import Metric, Param

        self.client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), at, 0) for name, value in metrics.items()],
            params=[
                Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in params.items()
            ],
        )

    def _register(self, model: str, version: str, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        if model not in self._models:
            try:
                self.client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            self._models.add(model)
        source = f"{self.client.get_run(run_id).info.artifact_uri}/head"
        tags = {VERSION_TAG: version}
        self.client.create_model_version(model, source, run_id, tags=tags, await_creation_for=0)
