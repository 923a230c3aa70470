"""What axe has against a page: rules of accessibility, of which only the serious and the critical count here."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def serious_faults(page: Page) -> list[str]:
    """Return a line for each element at fault: the rule, what it asks, and the element."""
    page.evaluate("document.getAnimations().forEach(each => each.finish())")  # colours fade in
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in violations
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]
