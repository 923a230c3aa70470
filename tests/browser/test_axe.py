"""The check of accessibility finds what is at fault, also on a page that lets no script of others run."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.browser.axe import serious_faults

pytestmark = [pytest.mark.browser, pytest.mark.servers]

STRICT = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:"
PICTURE = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


def serve(page: Page, body: str) -> None:
    html = f'<!doctype html><html lang="en"><head><title>Page</title></head><body><main>{body}</main></body></html>'
    page.route(
        "http://tandem.test/",
        lambda route: route.fulfill(
            body=html, headers={"Content-Type": "text/html", "Content-Security-Policy": STRICT}
        ),
    )
    page.goto("http://tandem.test/")


def test_a_page_as_it_should_be_has_no_serious_fault(page: Page) -> None:
    serve(page, f'<h1>Queue</h1><img alt="a face" src="{PICTURE}">')
    assert serious_faults(page) == []


def test_an_image_without_words_is_told(page: Page) -> None:
    serve(page, f'<h1>Queue</h1><img src="{PICTURE}">')
    assert [fault.split(":")[0] for fault in serious_faults(page)] == ["image-alt"]
