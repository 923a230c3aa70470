"""What the acts work with, each part made once per process and only when it is first needed."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from backend.database import connect
from backend.features import Features
from backend.images import ImageSource
from backend.jobs import Jobs
from backend.labelstudio import LabelStudio
from backend.ledger import Ledger
from backend.outcomes import Outcomes
from backend.projects import Projects
from backend.reviews import Reviews
from backend.scores import Scores
from backend.settings import Settings
from backend.studies import Studies
from backend.tracking import Tracking
from backend.versions import Versions
from model.encoder import Encoder, load_encoder

if TYPE_CHECKING:
    import sqlalchemy as sa


class Services:
    """The stores and sources of one process, by its settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loading = threading.Lock()

    def close(self) -> None:
        """Close the connections that were opened; nothing can be done with the services afterwards."""
        opened = vars(self)
        for name in ("features", "images", "label_studio", "jobs"):
            if name in opened:
                opened[name].close()
        if "engine" in opened:
            self.engine.dispose()

    @cached_property
    def engine(self) -> sa.Engine:
        """The database."""
        return connect(self.settings.database)

    @cached_property
    def projects(self) -> Projects:
        """The projects."""
        return Projects(self.engine)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger."""
        return Ledger(self.engine)

    @cached_property
    def versions(self) -> Versions:
        """The versions."""
        return Versions(self.engine, self.settings.keep_weights)

    @cached_property
    def outcomes(self) -> Outcomes:
        """What predictions turned out to be."""
        return Outcomes(self.engine)

    @cached_property
    def studies(self) -> Studies:
        """The studies."""
        return Studies(self.engine)

    @cached_property
    def scores(self) -> Scores:
        """What the newest version makes of each project's pool."""
        return Scores(self.engine)

    @cached_property
    def reviews(self) -> Reviews:
        """What reviewers decided about labels."""
        return Reviews(self.engine)

    @cached_property
    def images(self) -> ImageSource:
        """The reader of task images."""
        return ImageSource(self.settings, self.label_studio)

    @cached_property
    def features(self) -> Features:
        """The feature cache, with what fills it."""
        return Features(
            self.engine,
            self.images,
            lambda: self.encoder,
            max_pixels=self.settings.image_max_pixels,
            downloads=self.settings.image_downloads,
        )

    @property
    def encoder(self) -> Encoder:
        """The encoder; threads that need it at the same time wait for one loading."""
        with self._loading:
            return self._encoder

    @cached_property
    def _encoder(self) -> Encoder:
        settings = self.settings
        return load_encoder(
            settings.encoder,
            weights=settings.encoder_weights,
            runtime=settings.encoder_runtime,
            cache=settings.cache,
            batch=settings.encoder_batch,
            threads=settings.threads,
        )

    @cached_property
    def label_studio(self) -> LabelStudio:
        """Label Studio."""
        settings = self.settings
        key = settings.label_studio_api_key.get_secret_value()
        return LabelStudio(settings.label_studio_url, key, settings.label_studio_timeout)

    @cached_property
    def jobs(self) -> Jobs:
        """Requests for work."""
        settings = self.settings
        return Jobs(settings.redis, job_timeout=settings.job_timeout, lock_timeout=settings.lock_timeout)

    @cached_property
    def tracking(self) -> Tracking:
        """MLflow."""
        settings = self.settings
        return Tracking(settings.mlflow, timeout=settings.mlflow_timeout, s3_endpoint_url=settings.s3_endpoint_url)
