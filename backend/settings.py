"""Every setting once, each with the sentence that explains it. Nothing else reads the environment."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Tandem's settings, read from the environment (prefix ``TANDEM_``) or a ``.env`` file.

    Examples
    --------
    >>> Settings(web_port=9091).web_url
    'http://127.0.0.1:9091'
    """

    model_config = SettingsConfigDict(env_prefix="TANDEM_", env_file=".env", extra="ignore", populate_by_name=True)

    state: Path = Field(Path(".tandem"), description="Folder of everything Tandem keeps on this machine.")

    label_studio_url: str = Field(
        "http://127.0.0.1:8080",
        validation_alias=AliasChoices("TANDEM_LABEL_STUDIO_URL", "LABEL_STUDIO_URL"),
        description="Address of the Label Studio that Tandem serves, as this machine reaches it.",
    )
    label_studio_public_url: str = Field(
        "", description="Address of Label Studio as people's browsers reach it; empty: the same."
    )
    label_studio_api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("TANDEM_LABEL_STUDIO_API_KEY", "LABEL_STUDIO_API_KEY"),
        description="A legacy token or a personal access token of a Label Studio user who may edit the projects.",
    )
    label_studio_files: Path | None = Field(
        None,
        validation_alias=AliasChoices("TANDEM_LABEL_STUDIO_FILES", "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"),
        description="Label Studio's local-files folder, if this machine has it too: images are then read directly.",
    )
    label_studio_timeout: float = Field(30.0, description="Seconds to wait for an answer of Label Studio's API.")

    web_host: str = Field("127.0.0.1", description="Address the web process listens on.")
    web_port: int = Field(9090, description="Port the web process listens on.")
    public_url: str = Field("", description="Address of Tandem as Label Studio reaches it; empty: the web address.")
    secret: SecretStr = Field(
        SecretStr(""),
        description="Shared with Label Studio by `tandem connect`; when set, requests without it are refused.",
    )
    webhook_max_bytes: int = Field(64 << 20, description="Largest webhook or predict body that is read, in bytes.")

    database_url: str = Field("", description="SQLAlchemy address of the database; empty: SQLite in the state folder.")
    redis_url: str = Field("", description="Address of Redis; empty: the socket of the server that `tandem up` starts.")
    mlflow_tracking_uri: str = Field(
        "",
        validation_alias=AliasChoices("TANDEM_MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_URI"),
        description="Where versions are logged; empty: an SQLite file in the state folder.",
    )
    mlflow_timeout: float = Field(5.0, description="Seconds to wait for MLflow before the job is tried again later.")
    s3_endpoint_url: str = Field(
        "",
        validation_alias=AliasChoices("TANDEM_S3_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
        description="Address of an S3 server other than Amazon's, for task images and artifacts.",
    )

    encoder: str = Field(
        "tf_efficientnet_lite0", description="Name of the timm backbone whose features are learned on."
    )
    encoder_weights: Path | None = Field(None, description="Local weights file for the backbone instead of the hub's.")
    encoder_runtime: Literal["auto", "onnx", "torch"] = Field(
        "auto", description="What runs the backbone: ONNX Runtime, torch, or whichever suits this machine."
    )
    encoder_batch: int = Field(32, ge=1, description="Images encoded at a time.")
    threads: int = Field(0, ge=0, description="Threads that encode images in a process; 0: one per core.")

    head: Literal["streaming_lda", "mlp", "sgd"] = Field(
        "streaming_lda", description="The learner on top of the features; mlp and sgd are there for comparison."
    )

    random_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the questions that are drawn at random instead of asked for being unclear: only these "
        "tell without bias how often predictions are right, and how sure they may be.",
    )
    weigh_people: bool = Field(
        False, description="Whether, where people disagree, the label of who agrees with others more often counts more."
    )
    domain_field: str = Field(
        "", description="Field of a task's data that names its domain (a camera, a site), to be reported apart."
    )

    image_timeout: float = Field(10.0, description="Seconds to wait for the bytes of one image.")
    image_max_bytes: int = Field(50 << 20, description="Largest image file that is read, in bytes.")
    image_max_pixels: int = Field(100_000_000, description="Largest image that is decoded, in pixels.")
    image_hosts: list[str] = Field(
        [], description="Hosts that http(s) images may come from, besides Label Studio; `*.example.org` and `*` work."
    )
    image_private_addresses: bool = Field(
        False, description="Whether an allowed image host may resolve to a private or loopback address."
    )
    image_downloads: int = Field(8, ge=1, description="Images fetched at the same time.")

    preselect_from: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least calibrated probability at which a class is preselected. Below one half the choice would be "
        "wrong more often than right; the reason is shown all the same.",
    )

    show_interval: float = Field(0.5, description="Seconds that Label Studio is left alone between two pushes.")
    show_first: int = Field(
        20, ge=1, le=500, description="Tasks most worth asking, pushed to Label Studio at once after each label."
    )
    show_calm: float = Field(
        10.0, description="Seconds without a new version after which the rest of the pool is pushed, slice by slice."
    )
    show_slice: int = Field(
        100, ge=1, le=500, description="Tasks of such a slice: Label Studio lets nobody write while it takes one in."
    )
    show_keep: float = Field(
        3600.0,
        description="Seconds that older predictions stay in Label Studio after a newer version came: it refuses the "
        "annotation of someone who has a task open whose prediction is gone, and holds a task for them for an hour.",
    )
    sync_interval: float = Field(300.0, description="Seconds between two comparisons with Label Studio's annotations.")

    sweep_interval: float = Field(2.0, description="Seconds between two looks of a worker for work nobody asked for.")
    job_timeout: int = Field(600, description="Seconds after which a job is given up and tried again.")
    lock_timeout: float = Field(10.0, description="Seconds until the lock of a learner that died falls open.")
    keep_weights: int = Field(100, ge=1, description="Newest versions whose weights stay in SQL; older are rebuilt.")

    @property
    def web_url(self) -> str:
        """Address of the web process on this machine."""
        return f"http://{self.web_host}:{self.web_port}"

    @property
    def label_studio_for_people(self) -> str:
        """Address of Label Studio in links, without a slash at the end."""
        return (self.label_studio_public_url or self.label_studio_url).rstrip("/")

    @property
    def database(self) -> str:
        """SQLAlchemy address in force."""
        return self.database_url or f"sqlite:///{self.state.resolve() / 'tandem.db'}"

    @property
    def redis(self) -> str:
        """Redis address in force."""
        return self.redis_url or f"unix://{self.state.resolve() / 'redis.sock'}"

    @property
    def mlflow(self) -> str:
        """MLflow tracking address in force."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.state.resolve() / 'mlflow.db'}"

    @property
    def cache(self) -> Path:
        """Folder of what can be made again: exported encoders."""
        return self.state.resolve() / "cache"


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    What `tandem up` chose (addresses, secrets) is in its state folder, so that other commands reach what it runs.
    """
    state = Settings().state
    return Settings(_env_file=(".env", state / "up.env"))
