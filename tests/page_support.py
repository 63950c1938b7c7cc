"""A browser for tests of pages, and what a page did while it was open."""

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NEEDED = Path(__file__).resolve().parent.parent / "tools" / "need_chromium.sh"
NARROW, WIDE = 390, 1400
LEFT = "net::ERR_ABORTED"  # what a page still wanted when another was opened in its place


def chromium_path() -> str:
    """The executable, which is installed if it can be. Without one the test is skipped, on a build machine (CI is set) it fails."""
    found = subprocess.run([NEEDED], capture_output=True, text=True, timeout=900)
    if found.returncode and os.environ.get("CI"):
        pytest.fail(f"CI needs a browser. {found.stderr[-2000:]}")
    if found.returncode:
        pytest.skip(found.stderr.strip()[-500:])
    return found.stdout.strip()


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium driven by playwright.

    One a module, and closed behind it: while playwright's event loop runs, nothing else in the process may call `asyncio.run`."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = chromium_path()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page and what it did: errors and warnings of its console, exceptions, requests that went beyond files."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: request.failure == LEFT or self.complaints.append(f"not found: {request.url}"))
        self.page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:", "about:")) or self.requests.append(request.url))

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def assert_quiet(self) -> None:
        """Nothing on the console, nothing asked of a network."""
        assert not self.complaints and not self.requests, (self.complaints, self.requests)


@contextmanager
def watched(browser, path: Path, width: int = WIDE, height: int = 900, **options):
    """A file opened in a window of its own; options are those of playwright's new_context, e.g. color_scheme="dark"."""
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
    try:
        found = Watched(context.new_page())
        found.page.goto(path.resolve().as_uri())
        yield found
    finally:
        context.close()
