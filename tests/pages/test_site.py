"""The house of the pages: who may ask, what a page may load, what is told while it is open, and what others wrote."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from backend.database import projects, writing
from backend.pages import site
from backend.pages.site import Acting
from backend.services import Services
from tests.conftest import REPOSITORY
from tests.pages.conftest import SECRET
from tests.parts import CONFIG, Classroom

PAGES = REPOSITORY / "backend" / "pages"
VENDOR = PAGES / "static" / "vendor"
HERE = {"host": "tandem.example", "sec-fetch-site": "same-origin"}


@pytest.fixture
def asked_to_change(services: Services) -> TestClient:
    """Return a client of an application whose one route changes something and answers who did it."""
    app = FastAPI()
    app.state.services = services

    @app.post("/change")
    def change(person: Acting) -> str:
        return person

    return TestClient(app)


class Addresses(HTMLParser):
    """Collects what a page loads or leads to, and what would be a script or a style in the page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.found += [told[name] or "" for name in ("href", "src", "action", "sse-connect", "hx-get") if name in told]
        if tag == "style" or (tag == "script" and "src" not in told):
            self.inline.append(tag)
        self.inline += [name for name in told if name == "style" or name.startswith("on")]


def basic(name: str, password: str = SECRET) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/health", "/ui/events", "/ui/static/tandem.css", "/docs", "/openapi.json"]
)
def test_nothing_is_shown_without_the_secret(client: TestClient, path: str) -> None:
    client.auth = None
    answer = client.get(path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="tandem"')


def test_without_a_project_the_front_page_says_what_to_do(client: TestClient) -> None:
    answer = client.get("/ui/")
    assert answer.status_code == 200
    assert "tandem connect" in answer.text


def test_with_one_project_the_front_page_is_its_overview(client: TestClient, classroom: Classroom) -> None:
    answer = client.get("/ui/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (302, "/ui/projects/7/overview")


def test_with_several_projects_each_can_be_chosen(client: TestClient, classroom: Classroom) -> None:
    with writing(classroom.services.engine) as connection:
        connection.execute(
            projects.insert().values(label_studio_id=8, created=1, title="<b>cats</b>", label_config=CONFIG)
        )
    answer = client.get("/ui/")
    assert 'href="/ui/projects/8/overview">&lt;b&gt;cats&lt;/b&gt;<' in answer.text
    assert "<b>cats</b>" not in answer.text
    assert 'href="/ui/projects/8/queue"' in client.get("/ui/projects/7/queue", headers={"accept": "text/html"}).text


def test_a_project_nobody_told_of_is_a_page_that_says_so(client: TestClient) -> None:
    answer = client.get("/ui/projects/99/overview")
    assert answer.status_code == 404
    assert "Tandem has not heard of project 99" in answer.text
    assert answer.headers["content-security-policy"] == site.POLICY


def test_what_is_no_page_gets_its_errors_as_json(client: TestClient) -> None:
    answer = client.get("/api/projects/99/overview")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("Tandem has not heard of project 99")


@pytest.mark.parametrize("path", ["/ui/", "/ui/health", "/ui/projects/7/overview", "/docs"])
def test_a_page_loads_nothing_from_outside_and_has_no_script_of_its_own(
    client: TestClient, classroom: Classroom, path: str
) -> None:
    told = Addresses()
    answer = client.get(path)
    told.feed(answer.text)
    outside = {address for address in told.found if not address.startswith(("/", "#"))}
    assert {address for address in outside if not address.startswith("http://127.0.0.1:1/projects/7/")} == set()
    assert told.inline == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for address in told.found:
        if address.startswith("/ui/static/"):
            assert client.get(address).status_code == 200


def test_static_files_are_those_of_the_pages_alone(client: TestClient) -> None:
    assert client.get("/ui/static/tandem.css").headers["content-type"].startswith("text/css")
    assert client.get("/ui/static/..%2Fsite.py").status_code == 404
    assert client.get("/ui/static/vendor/VENDORED.md").status_code == 404


def test_the_documentation_of_the_json_names_every_route(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert "/api/projects/{label_studio_id}/overview" in told["paths"]
    routes = [
        route for path, methods in told["paths"].items() if path.startswith("/api/") for route in methods.values()
    ]
    assert all(route.get("summary") and route.get("tags") for route in routes)
    schemas = [
        route["responses"]["200"]["content"]["application/json"]["schema"]
        for route in routes
        if "200" in route["responses"]
    ]
    assert all(schemas)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"host": "tandem.example", "origin": "http://evil.example"},
        {"host": "tandem.example", "origin": "null"},
    ],
)
def test_a_change_that_another_site_sent_is_refused(asked_to_change: TestClient, headers: dict[str, str]) -> None:
    answer = asked_to_change.post("/change", headers=headers | {"authorization": basic("ann")})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers", [HERE, {"host": "tandem.example", "origin": "http://tandem.example"}, {"host": "tandem.example"}]
)
def test_a_change_is_made_in_the_name_of_who_asks(asked_to_change: TestClient, headers: dict[str, str]) -> None:
    answer = asked_to_change.post("/change", headers=headers | {"authorization": basic("ann")})
    assert (answer.status_code, answer.json()) == (200, "ann")


@pytest.mark.parametrize(
    "given", [basic(""), "Bearer a token", "Basic !!!", "Basic " + b64encode(b"\xff").decode(), ""]
)
def test_without_a_name_somebody_unnamed_acts(asked_to_change: TestClient, given: str) -> None:
    headers = HERE | ({"authorization": given} if given else {})
    assert asked_to_change.post("/change", headers=headers).json() == site.NOBODY


def test_a_name_is_kept_short_and_printable(asked_to_change: TestClient) -> None:
    headers = HERE | {"authorization": basic("a\nb\x00" + "c" * 200)}
    assert asked_to_change.post("/change", headers=headers).json() == "ab" + "c" * 98


def test_behind_a_proxy_the_public_address_is_ours_too(asked_to_change: TestClient, services: Services) -> None:
    services.settings.public_url = "https://tandem.example.org"
    headers = {"host": "web:9090", "origin": "https://tandem.example.org", "authorization": basic("ann")}
    assert asked_to_change.post("/change", headers=headers).status_code == 200


def test_an_open_page_is_told_when_a_project_changed(classroom: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "LOOK_EVERY", 0.01)

    async def listen() -> list[str]:
        stream = site._changes(classroom.services)
        told = [await anext(stream), await anext(stream)]
        classroom.annotate(1)
        told += [await anext(stream), await anext(stream)]
        await stream.aclose()
        return told

    begun, nothing, changed, after = asyncio.run(listen())
    assert begun.startswith("retry:")
    assert "event:" not in nothing
    assert re.findall("event: (.*)", changed) == ["project-7", "projects"]
    assert "event:" not in after


def test_what_others_wrote_is_as_they_published_it() -> None:
    rows = re.findall(
        r"^\| (\S+) \| .* \| \[.*\]\((\S+)\) \| ([0-9a-f]{64}) \|$", (VENDOR / "VENDORED.md").read_text(), re.M
    )
    assert {name for name, _, _ in rows} == {path.name for path in VENDOR.iterdir() if path.suffix in (".js", ".css")}
    for name, licence, digest in rows:
        assert sha256((VENDOR / name).read_bytes()).hexdigest() == digest
        assert (VENDOR / licence).exists()


def test_a_wheel_takes_templates_and_static_files_along() -> None:
    import tomllib

    package_data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    taken = {path for pattern in package_data["backend"] for path in (REPOSITORY / "backend").glob(pattern)}
    needed = {path for folder in ("templates", "static") for path in (PAGES / folder).rglob("*") if path.is_file()}
    assert needed <= taken


def test_every_template_is_a_page_or_part_of_one() -> None:
    sources = "".join(path.read_text() for path in PAGES.rglob("*") if path.suffix in (".py", ".html"))
    assert [path.name for path in Path(PAGES / "templates").iterdir() if f'"{path.name}"' not in sources] == []
