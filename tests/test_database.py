"""The migrations lead to the tables that the code knows."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from backend.database import connect, features, metadata, migrate, reading, writing
from backend.ledger import Label, Ledger


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    url = f"sqlite:///{tmp_path / 'new folder' / 'tandem.db'}"
    migrate(url)
    migrate(url)
    return connect(url)


def test_migrations_make_the_tables_that_the_code_knows(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_labels_told_before_several_could_be_chosen_stay_as_they_are(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tandem.db'}"
    migrate(url, "0002")
    old = connect(url)
    with writing(old) as connection:
        connection.execute(sa.text("INSERT INTO projects VALUES (1, 2, 3, 'pets', '', 1, null, null, null, null)"))
        connection.execute(
            sa.text(
                "INSERT INTO annotations (project_id, id, task_id, label, standing, updated_at, told_at, position) "
                "VALUES (1, 7, 3, '[\"cat\"]', 'in force', 1, 1, 1), (1, 8, 4, null, 'several', 1, 1, 0)"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO events (project_id, position, annotation_id, task_id, label, source, told_at) "
                "VALUES (1, 1, 7, 3, '[\"cat\"]', 'webhook', 1)"
            )
        )
    old.dispose()
    migrate(url)
    ledger = Ledger(connect(url))
    expected = {7: Label(7, 3, None, '["cat"]')}
    assert ledger.in_force(1) == ledger.in_force(1, 1) == expected
    assert ledger.standing(1) == {"in force": 1, "several": 1}


def test_what_fails_on_the_way_is_not_written(engine: sa.Engine) -> None:
    row = {"encoder_id": "e", "content_hash": "h", "vector": b""}

    def write_and_fail() -> None:
        with writing(engine) as connection:
            connection.execute(features.insert(), [row])
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        write_and_fail()
    with reading(engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(features)) == 0


def test_a_reader_sees_one_moment_while_others_write(engine: sa.Engine) -> None:
    count = sa.select(sa.func.count()).select_from(features)
    with reading(engine) as reader:
        assert reader.scalar(count) == 0
        with writing(engine) as writer:
            writer.execute(features.insert(), [{"encoder_id": "e", "content_hash": "h", "vector": b""}])
        assert reader.scalar(count) == 0
    with reading(engine) as reader:
        assert reader.scalar(count) == 1


def test_writers_wait_for_each_other(engine: sa.Engine) -> None:
    def write(part: str) -> None:
        for place in range(20):
            with writing(engine) as connection:
                connection.scalar(sa.select(sa.func.count()).select_from(features))
                connection.execute(features.insert(), [{"encoder_id": part, "content_hash": str(place), "vector": b""}])

    threads = [threading.Thread(target=write, args=(part,)) for part in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(features)) == 80
