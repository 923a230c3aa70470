"""Takes the pictures of the screens in docs/images anew: ``python -m docs.screenshots``; some minutes.

It starts everything with the demo's images in a folder of its own, labels some as a person would, and looks at the
screens of Label Studio and at Tandem's pages with the browser that is there. Nothing of it is left but the pictures.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from backend.services import Services
from backend.settings import Settings
from backend.up.servers import free_ports
from docs.plots import DOCS, save
from tests.browser.conftest import QUIET, executable

REPOSITORY = DOCS.parent
DEMO = REPOSITORY / "demo" / "expressions"
LABELS = 60
WRONG = {17, 31}
"""Labels, counted from 0, that are given wrongly, so that there is something to doubt."""
PACE = 1.5
"""Seconds between labels; who is faster than a new order is shown may be asked fewer questions at random."""
SIZE = {"width": 1200, "height": 800}
PATIENCE = 300.0
"""Seconds to wait for what is to come about."""


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory(prefix="tandem-screens-") as folder, running(Path(folder)) as (services, password):
        wait("the first predictions", lambda: services.projects.all()[0].shown)
        label(services)
        project = services.projects.all()[0]
        wait("the labels to be learned", lambda: _all_learned(services))
        wait("a study of them", lambda: _studied(services))
        wait("the pool to be shown", lambda: not services.ledger.has_unshown_tasks(project.id))
        with sync_playwright() as playwright:
            path = executable(playwright.chromium.executable_path)
            browser = playwright.chromium.launch(executable_path=path, args=QUIET)
            look_at_label_studio(browser.new_page(viewport=SIZE, locale="en-US"), services, password)
            secret = services.settings.secret.get_secret_value()
            context = browser.new_context(
                viewport=SIZE, locale="en-US", http_credentials={"username": "ann", "password": secret}
            )
            look_at_pages(context.new_page(), services)
            browser.close()


@contextmanager
def running(state: Path) -> Iterator[tuple[Services, str]]:
    """Run everything in a folder of its own; give its services and the password of Label Studio's user."""
    for name in ("label-studio-venv", "cache"):  # what is installed or exported here already need not be made again
        if (REPOSITORY / ".tandem" / name).is_dir():
            (state / name).symlink_to(REPOSITORY / ".tandem" / name)
    web, mlflow, label_studio = free_ports(3)
    settings = {
        "TANDEM_STATE": str(state),
        "TANDEM_WEB_PORT": str(web),
        "TANDEM_LABEL_STUDIO_URL": f"http://127.0.0.1:{label_studio}",
        "MLFLOW_PORT": str(mlflow),
        "PYTHONUNBUFFERED": "1",  # each line is read as it comes
    }
    tandem = Path(sys.executable).with_name("tandem")
    process = subprocess.Popen([tandem, "up"], env=os.environ | settings, stdout=subprocess.PIPE, text=True)
    try:
        password = ""
        for line in process.stdout or ():
            print(line, end="")
            password = found[1] if (found := re.search(r"Login .*password +(\w+)", line)) else password
            if "Ctrl-C ends everything" in line:
                break
        services = Services(Settings(_env_file=state / "up.env"))
        yield services, password
        services.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def label(services: Services) -> None:
    """Label what Label Studio asks, as the demo's folders say, with two mistakes."""
    truth = {hashlib.sha256(path.read_bytes()).hexdigest(): path.parent.name for path in DEMO.rglob("*.png")}
    project = services.projects.all()[0]
    config = project.config
    if config is None:
        raise SystemExit("The demo's labeling configuration can't be learned.")
    for number in range(LABELS):
        task = services.label_studio.next_task(project.label_studio_id)
        if task is None:
            break
        data = services.images.read(task["data"]["image"], task["id"])
        name = truth[hashlib.sha256(data).hexdigest()]
        if number in WRONG:
            name = next(other for other in project.classes if other != name)
        services.label_studio.annotate(task["id"], config.result(name), lead_time=2.0 + number % 3)
        time.sleep(PACE)


def wait(what: str, come: Callable[[], object]) -> None:
    """Wait for something to come about."""
    print(f"Waiting for {what} ...")
    deadline = time.monotonic() + PATIENCE
    while not come():
        if time.monotonic() > deadline:
            raise SystemExit(f"Gave up waiting for {what}.")
        time.sleep(0.5)


def _all_learned(services: Services) -> bool:
    project = services.projects.all()[0]
    newest = services.versions.newest(project.id)
    return newest is not None and newest.position == project.position and project.shown_version == newest.number


def _studied(services: Services) -> bool:
    project = services.projects.all()[0]
    study, newest = services.studies.newest(project.id), services.versions.newest(project.id)
    return study is not None and newest is not None and study.position == newest.position


def look_at_label_studio(page: Page, services: Services, password: str) -> None:
    """Take the labelling screen and the tab of what is asked next."""
    page.set_default_timeout(PATIENCE * 1000)
    url, number = services.settings.label_studio_url, services.projects.all()[0].label_studio_id
    page.goto(f"{url}/user/login/")
    page.fill("input[name=email]", "tandem@localhost.local")
    page.fill("input[name=password]", password)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda address: "/login" not in address)
    page.wait_for_load_state("networkidle")
    page.goto(f"{url}/projects/{number}/data")
    page.get_by_text("Ask next").first.wait_for()
    page.wait_for_load_state("networkidle")
    shoot(page, "ask-next")
    page.goto(f"{url}/projects/{number}/data?labeling=1")
    page.get_by_text("surprise").first.wait_for()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)  # the image fades in
    shoot(page, "labelling")


def look_at_pages(page: Page, services: Services) -> None:
    """Take Tandem's own pages."""
    page.set_default_timeout(PATIENCE * 1000)
    project = services.projects.all()[0]
    pages = f"{services.settings.web_url}/ui/projects/{project.label_studio_id}"
    for name in ("overview", "queue", "doubts", "versions", "try"):
        page.goto(f"{pages}/{name}", wait_until="load")
        if name == "try":
            page.set_input_files("input[type=file]", sorted((DEMO / "happy").glob("*.png"))[0])
        page.wait_for_timeout(2500)  # thumbnails, plots and what is live
        shoot(page, name)
    page.goto(f"{services.settings.web_url}/ui/health", wait_until="load")
    page.wait_for_timeout(10_000)  # the doctor asks
    shoot(page, "health")


def shoot(page: Page, name: str) -> None:
    """Take what is on the screen."""
    save(Image.open(BytesIO(page.screenshot())), DOCS / "images" / f"{name}.png")
    print(f"docs/images/{name}.png")


if __name__ == "__main__":
    main()
