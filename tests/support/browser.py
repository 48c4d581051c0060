"""A real browser for pages that camlib writes or serves: Debian's Chromium, by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")

needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="apt-get install -y --no-install-recommends chromium"),
    pytest.mark.skipif(
        find_spec("playwright") is None or find_spec("axe_playwright_python") is None,
        reason="pip install 'torch-camlib[browser]'",
    ),
]
"""Marks of tests that open pages."""

DESKTOP, PHONE = (1280, 800), (360, 740)

_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextmanager
def opened(
    address: str, size: tuple[int, int] = DESKTOP, scheme: Any = "light", **options: Any
) -> Iterator[Any]:
    """The page at `address`; what goes wrong on it, or asks for another host, fails the test."""
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []

    def asked(route: Any) -> None:
        here = route.request.url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:"))
        if not here:
            wrong.append(f"asks for {route.request.url}")
        route.continue_() if here else route.abort()

    def said(message: Any) -> None:
        if message.type == "error":
            wrong.append(message.text)

    def answered(dialog: Any) -> None:
        wrong.append(f"opens a dialog: {dialog.message}")
        dialog.dismiss()

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        width, height = size
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", answered)
        page.route("**/*", asked)
        page.goto(address)
        yield page
        browser.close()
    assert not wrong


def faults(page: Any) -> list[str]:
    """What axe finds serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response
    assert found["passes"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
