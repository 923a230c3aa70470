"""Where the truth is kept: engine, tables and migrations. It knows SQL and nothing of what the rows mean.

SQLite runs in WAL mode with ``synchronous=NORMAL``: a killed process loses nothing; a power cut may lose the last
moments, which the next comparison with Label Studio brings back. PostgreSQL needs nothing but another address.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event

LONGEST_WAIT = 30.0
"""Seconds a writer waits for the others before it fails."""
LOOK_AGAIN = 0.001
"""Seconds until it looks again whether SQLite's write lock is free."""

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("label_studio_id", sa.Integer, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False, comment="Unix seconds; tells a project from a later namesake"),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("label_config", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, server_default="0", comment="Newest ledger position"),
    sa.Column("pinned", sa.Integer, comment="Version that serves instead of the newest"),
    sa.Column("shown", sa.Text, comment="Name under which predictions stand in Label Studio"),
    sa.Column("shown_version", sa.Integer, comment="Version those predictions come from; 0 is the cold start"),
    sa.Column("synced_at", sa.Float, comment="Unix seconds of the last comparison with Label Studio"),
    sa.Column("tabs", sa.JSON, comment="What Tandem's tabs list"),
    sa.UniqueConstraint("label_studio_id", "created"),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False, comment="Label Studio's task id"),
    sa.Column("image", sa.Text, comment="Raw address of the image as the task has it"),
    sa.Column("fields", sa.JSON, comment="Its short data fields, such as a camera or a site; null: not told yet"),
    sa.Column("told_at", sa.Float, nullable=False),
    sa.Column("shown", sa.Text, comment="Name under which its prediction stands in Label Studio"),
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.String(64), comment="SHA-256 of the bytes, once read"),
    sa.Column("reason", sa.Text, comment="Why the image could not be read the last time"),
    sa.Column("temporary", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tried_at", sa.Float),
    sa.Index("ix_images_content_hash", "project_id", "content_hash"),
)

features = sa.Table(
    "features",
    metadata,
    sa.Column("encoder_id", sa.String(160), primary_key=True),
    sa.Column("content_hash", sa.String(64), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False, comment="float32, little endian"),
)

# Not named `annotations`: every module imports that name from __future__.
annotation_table = sa.Table(
    "annotations",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False, comment="Label Studio's annotation id"),
    sa.Column("task_id", sa.BigInteger, nullable=False),
    sa.Column("image", sa.Text),
    sa.Column("label", sa.Text, comment="The label in force; null: nothing to learn, see standing"),
    sa.Column("multiple", sa.Boolean, nullable=False, server_default=sa.false(), comment="label is a JSON list"),
    sa.Column(
        "standing", sa.String(16), nullable=False, comment="in force, skipped, empty, several, machine or deleted"
    ),
    sa.Column("updated_at", sa.Float, nullable=False, comment="Unix seconds, by Label Studio's clock"),
    sa.Column("told_at", sa.Float, nullable=False, comment="Unix seconds, by ours"),
    sa.Column("completed_by", sa.Integer),
    sa.Column("lead_time", sa.Float),
    sa.Column("ground_truth", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("prediction_version", sa.Text, comment="Version of the prediction the annotator saw"),
    sa.Column("position", sa.BigInteger, nullable=False, comment="Ledger position of its last event"),
    sa.Index("ix_annotations_task", "project_id", "task_id"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("annotation_id", sa.BigInteger, comment="null: the label config changed"),
    sa.Column("task_id", sa.BigInteger),
    sa.Column("image", sa.Text),
    sa.Column("label", sa.Text, comment="The label in force from here on; null: none"),
    sa.Column("multiple", sa.Boolean, nullable=False, server_default=sa.false(), comment="label is a JSON list"),
    sa.Column("completed_by", sa.Integer),
    sa.Column("source", sa.String(16), nullable=False, comment="Who told: webhook or sync"),
    sa.Column("told_at", sa.Float, nullable=False),
    sa.Index("ix_events_annotation", "project_id", "annotation_id"),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("encoder_id", sa.String(160), nullable=False),
    sa.Column("head", sa.String(32), nullable=False),
    sa.Column("classes", sa.JSON, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("study", sa.Integer, comment="Number of the study it was made with; null: none"),
    sa.Column("weights", sa.LargeBinary, comment="null: pruned; rebuilt from the ledger when asked for"),
    sa.Column("logging_since", sa.Float, comment="Unix seconds when a run for it was first begun in MLflow"),
    sa.Column("run_id", sa.String(64), comment="MLflow run, once logged"),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("annotation_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("task_id", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, comment="Version that predicted, before it learned the label"),
    sa.Column("position", sa.BigInteger, nullable=False, comment="Ledger position at which the label was learned"),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("predicted", sa.Text, nullable=False),
    sa.Column("probability", sa.Float, nullable=False, comment="Of the label"),
    sa.Column("confidence", sa.Float, nullable=False, comment="Probability of the class predicted"),
    sa.Column("covered", sa.Boolean, comment="Whether the prediction set held the label; null: there was no set"),
    sa.Column("told_at", sa.Float, nullable=False, comment="Unix seconds"),
    sa.Index("ix_outcomes_position", "project_id", "position"),
)

studies = sa.Table(
    "studies",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False, comment="Ledger position studied"),
    sa.Column("encoder_id", sa.String(160), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False, comment="Unix seconds"),
    sa.Column("seconds", sa.Float, nullable=False, comment="How long it took"),
    sa.Column("calibration", sa.JSON, comment="What the head is served with; null: nothing to go by yet"),
    sa.Column("novelty", sa.LargeBinary, comment="What tells novel images; null: nothing to go by, or pruned"),
    sa.Column("reliability", sa.JSON, nullable=False, comment="How much each person's label counts"),
    sa.Column("findings", sa.JSON, comment="What people read of it; null: a newer study stands"),
    sa.Column("trust", sa.Float, nullable=False, comment="How far unlabelled images are believed, from 0 to 1"),
    sa.Column("pool", sa.LargeBinary, comment="What unlabelled images teach; null: nothing"),
)

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False, comment="Version that scored; 0 is the cold start"),
    sa.Column("made_at", sa.Float, nullable=False, comment="Unix seconds"),
    sa.Column("classes", sa.JSON, nullable=False, comment="Those that the version knows"),
    sa.Column("pool", sa.LargeBinary, nullable=False, comment="Arrays, in the order in which tasks are asked"),
    sa.Column("study", sa.Integer, comment="Study that told the novelty; null: none yet"),
    sa.Column("novelty", sa.LargeBinary, comment="Arrays: tasks by id, and how novel each is"),
)

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("task_id", sa.BigInteger, nullable=False),
    sa.Column("annotation_id", sa.BigInteger, nullable=False),
    sa.Column("before", sa.JSON, nullable=False, comment="Classes that the annotation named"),
    sa.Column("after", sa.JSON, nullable=False, comment="Classes it should name; the same: it was confirmed"),
    sa.Column("result", sa.JSON, comment="Its whole result before; null: it was confirmed"),
    sa.Column("who", sa.Text, nullable=False, comment="Name of the person"),
    sa.Column("reviewed_at", sa.Float, nullable=False, comment="Unix seconds"),
    sa.Column("undone_at", sa.Float, comment="Unix seconds; null: it stands"),
    sa.Column("undone_by", sa.Text, comment="Name of the person"),
    sa.Index("ix_reviews_project", "project_id", "reviewed_at"),
)

pins = sa.Table(
    "pins",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("version", sa.Integer, comment="Version that serves from here on; null: the newest again"),
    sa.Column("who", sa.Text, comment="Name of the person; null: Tandem itself, or nobody was asked for a name"),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("pinned_at", sa.Float, nullable=False, comment="Unix seconds"),
    sa.Index("ix_pins_project", "project_id", "id"),
)

taught = sa.Table(
    "taught",
    metadata,
    sa.Column("project_id", sa.Integer, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("annotation_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("task_id", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False, comment="User name that was given with the secret"),
    sa.Column("taught_at", sa.Float, nullable=False, comment="Unix seconds"),
)


def connect(url: str) -> sa.Engine:
    """Return an engine for `url`; a missing SQLite folder is made.

    Examples
    --------
    >>> connect("sqlite://").dialect.name
    'sqlite'
    """
    address = sa.make_url(url)
    if address.get_backend_name() != "sqlite":
        return sa.create_engine(address, pool_pre_ping=True)
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(address, connect_args={"timeout": LONGEST_WAIT, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The write-ahead log is moved into the database by `checkpoint`, not by whoever happens to commit: that takes
        # a sync of the disk, and the one who waits might be an annotator.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            "cache_size=-16384",
            "wal_autocheckpoint=50000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def checkpoint(engine: sa.Engine) -> None:
    """Move what was written into the database file, as far as nobody is in the way; only SQLite needs it."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection whose statements all see the same moment."""
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        if sqlite:
            connection.exec_driver_sql("BEGIN")
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        try:
            yield connection
        finally:
            if sqlite:
                connection.exec_driver_sql("ROLLBACK")


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Give a connection whose statements are committed together, or not at all.

    On SQLite the write lock is taken at once (``BEGIN IMMEDIATE``): a transaction that reads first and writes later
    would otherwise fail when another process wrote in between.
    """
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        _begin_writing(connection)
        try:
            yield connection
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


def _begin_writing(connection: sa.Connection) -> None:
    """Take SQLite's write lock as soon as it is free; SQLite itself would look ever more rarely, up to 100 ms apart."""
    deadline = time.monotonic() + LONGEST_WAIT
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except sa.exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_AGAIN)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={int(LONGEST_WAIT * 1000)}")


def upsert(engine: sa.Engine, table: sa.Table) -> Any:
    """Return the dialect's ``INSERT`` on `table`, which knows ``ON CONFLICT``."""
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table)


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database at `url` to the newest schema, or up to an older `revision` of it."""
    connect(url).dispose()
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    command.upgrade(config, revision)
