"""A browser of a few lines: it has the name and the secret, and follows what Tandem's own pages would send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.services import Services
from tests.parts import make_services

SECRET = "a secret of the tests"


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return make_services(tmp_path, secret=SECRET)


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    """Ask as Ann, who knows the secret."""
    client = TestClient(create_app(services.settings, services), headers={"accept": "text/html"})
    client.auth = ("ann", SECRET)
    yield client
    services.close()
