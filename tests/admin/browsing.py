"""A real browser for tests: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

SCREENSHOTS = Path(__file__).parents[2] / "out" / "screenshots"
FLAGS = ["--no-sandbox", "--enable-precise-memory-info", "--disable-dev-shm-usage"]


def chromium() -> str:
    """Path of a Chromium; skips the test where there is none."""
    pytest.importorskip("playwright", reason="no Playwright (pip install playwright)")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("STREAMSPEC_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("no Chromium (apt-get install chromium, or set STREAMSPEC_CHROMIUM)")
    return found


@dataclass
class Visit:
    """A page and everything that went wrong or over the network in it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def text(self, selector: str) -> str:
        """Visible text of the first match."""
        return await self.page.locator(selector).first.inner_text()

    async def until(self, expression: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression is true."""
        await self.page.wait_for_function(expression, arg=argument, timeout=20_000)

    async def keep(self, name: str) -> None:
        """Keep a picture of it for people."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A browser, ended afterwards with everything that it started."""
    executable = chromium()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


async def visit(
    browser: Browser, url: str, *, width: int = 1400, height: int = 1000, dark: bool = False, **options: Any
) -> Visit:
    """Open a page of its own context."""
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", **options
    )
    found = Visit(await context.new_page())
    found.page.on("console", lambda line: found.complaints.append(line.text) if line.type == "error" else None)
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    await found.page.goto(url)
    return found
