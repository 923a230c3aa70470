"""The house stays in order: floors only look down, and `model` has never heard of `backend`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FLOORS = [
    {"settings"},
    {"database", "labelstudio", "label_config", "data_manager", "events", "images", "jobs", "tracking"},
    {"projects", "ledger", "features", "outcomes", "reviews", "scores", "versions", "studies"},
    {"services"},
    {
        "findings",
        "learner",
        "predict",
        "update",
        "study",
        "log",
        "pool",
        "show",
        "reconcile",
        "connect",
        "review",
        "rollback",
        "teach",
        "doctor",
    },
    {"insight"},
    {"tabs"},
    {"pages"},
    {"app", "worker", "up"},
    {"cli"},
]
SOURCES_IN_ORDER = ["label_config", "events", "labelstudio", "images"]
"""Sources that may know each other, the later the earlier."""
ACTS_IN_ORDER = [
    "rollback",
    "learner",
    "findings",
    "update",
    "study",
    "log",
    "predict",
    "pool",
    "show",
    "connect",
    "doctor",
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def room(module: str) -> str:
    return module.removeprefix("backend.").split(".")[0]


BACKEND = sorted(path for path in (REPOSITORY / "backend").rglob("*.py") if "migrations" not in path.parts)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "model").glob("*.py")), ids=lambda path: path.stem)
def test_the_learner_knows_nothing_of_the_service(path: Path) -> None:
    services = {"backend", "fastapi", "httpx", "redis", "rq", "sqlalchemy", "mlflow", "boto3"}
    assert not {module.split(".")[0] for module in imports(path)} & services


@pytest.mark.parametrize("path", sorted((REPOSITORY / "replay").glob("*.py")), ids=lambda path: path.stem)
def test_the_replay_knows_the_learner_and_nothing_of_the_service(path: Path) -> None:
    ours = {module.split(".")[0] for module in imports(path)} & {"backend", "model", "replay", "tests"}
    assert ours <= {"model", "replay"}


@pytest.mark.parametrize("path", BACKEND, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_floors_only_look_down(path: Path) -> None:
    here = path.relative_to(REPOSITORY / "backend").with_suffix("").parts[0]
    if here == "__init__":
        return
    assert here in LEVEL, f"say in tests/test_house.py and docs/architecture.md on which floor {here} is"
    theirs = {room(module) for module in imports(path) if module.startswith("backend.")} & LEVEL.keys() - {here}
    for other in theirs:
        beside = LEVEL[other] == LEVEL[here] and any(
            here in order and other in order and order.index(other) < order.index(here)
            for order in (SOURCES_IN_ORDER, ACTS_IN_ORDER, ["projects", "ledger"], ["outcomes", "versions"])
        )
        assert LEVEL[other] < LEVEL[here] or beside, f"{here} must not know {other}"


def test_every_file_stands_in_the_architecture() -> None:
    told = (REPOSITORY / "docs" / "architecture.md").read_text()
    assert [name for name in LEVEL if f"`{name}.py`" not in told and f"`{name}/`" not in told] == []
