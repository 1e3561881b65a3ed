"""The built book in a real browser: headless Chromium, driven over its debugging protocol.

Run after `make book`: pytest -m browser tests/test_book_browser.py. $COMPACTNETS_CHROMIUM names
the browser if it is not called chromium.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import websocket
from bs4 import BeautifulSoup

from compactnets import paths

pytestmark = pytest.mark.browser
PHONE = (390, 844)
DESKTOP = (1400, 900)


class Browser:
    """One tab of a headless browser; keeps what it requested and what its console complained of."""

    def __init__(self, profile: Path) -> None:
        program = os.environ.get("COMPACTNETS_CHROMIUM") or next(
            filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
        )
        if program is None:
            pytest.fail("no Chromium found: install it (Debian: apt-get install chromium)")
        switches = "--headless --no-sandbox --disable-gpu --disable-background-networking"
        self._process = subprocess.Popen(
            [program, *switches.split(), "--remote-debugging-port=0", "--no-first-run",
             "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._socket = websocket.create_connection(self._target(profile), timeout=180)
        except BaseException:
            self._process.kill()
            raise
        self._count = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    @staticmethod
    def _target(profile: Path) -> str:
        import urllib.request

        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, IndexError, StopIteration, ValueError):
                port = port_file.read_text().split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=60) as reply:
                    tabs = json.load(reply)
                return next(t["webSocketDebuggerUrl"] for t in tabs if t["type"] == "page")
            time.sleep(0.1)
        pytest.fail("the browser did not open its debugging port within 180 s")

    def _event(self, message: dict) -> None:
        method, what = message.get("method", ""), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(what["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and what["type"] == "error":
            self.complaints.append(json.dumps(what["args"]))

    def call(self, method: str, **params: object) -> dict:
        """Sends one command and waits for its answer; events met on the way are kept."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._count:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._event(message)

    def run(self, script: str):
        """Value of a JavaScript expression; promises are awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 90) -> None:
        """Waits until an expression is true; fails with the expression if it never is."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.run(f"Boolean({script})"):
                return
            time.sleep(0.1)
        pytest.fail(f"still not true after {seconds} s: {script}")

    def open(self, url: str, size: tuple[int, int] = DESKTOP) -> None:
        """Loads a page at a window size, until its scripts and its formulas are done."""
        self.requests, self.complaints = [], []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=1, mobile=size == PHONE,
        )  # fmt: skip
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {url!r}")
        self.run("window.MathJax?.startup?.promise.then(() => true) ?? true")

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="session")
def html() -> Path:
    folder = paths.build_dir() / "html"
    if not (folder / "index.html").exists():
        pytest.fail(f"there is no built book in {folder}: run `make book` first")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    tab = Browser(tmp_path_factory.mktemp("chromium"))
    yield tab
    tab.close()


@pytest.fixture(scope="session")
def pages(html: Path) -> list[Path]:
    """All pages with content: the site's own index of terms and search page are not among them."""
    own = {"genindex.html", "search.html", "py-modindex.html", "genindex-all.html"}
    return [
        page
        for page in sorted(html.rglob("*.html"))
        if page.name not in own and not {"_static", "_sources"} & set(page.relative_to(html).parts)
    ]


def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def test_no_page_complains_or_asks_the_network_for_anything(browser, pages):
    faults = {}
    for page in pages:
        browser.open(page.as_uri())
        remote = [r for r in browser.requests if not re.match(r"(file|data|blob|about):", r)]
        if remote or browser.complaints:
            faults[page.name] = remote + browser.complaints
    assert not faults


def test_every_internal_link_and_its_anchor_resolve(html, pages):
    anchors: dict[Path, set[str]] = {}
    broken = []
    for page in pages:
        for link in soup(page).select("a[href], img[src], script[src], link[href]"):
            target = link.get("href") or link.get("src") or ""
            if re.match(r"[a-z][a-z0-9+.-]*:|//", target) or target == "#":
                continue
            name, anchor = urldefrag(target)
            file = (page.parent / unquote(name.split("?")[0])).resolve() if name else page
            file = file / "index.html" if file.is_dir() else file
            if not file.exists():
                broken.append(f"{page.relative_to(html)}: {target}")
            elif anchor and file.suffix == ".html":
                if file not in anchors:
                    anchors[file] = {e["id"] for e in soup(file).select("[id]")}
                if unquote(anchor) not in anchors[file]:
                    broken.append(f"{page.relative_to(html)}: {target} (no such anchor)")
    assert not broken


def test_no_page_is_wider_than_a_phone(browser, pages):
    wide = {}
    for page in pages:
        browser.open(page.as_uri(), PHONE)
        width = browser.run("document.documentElement.scrollWidth")
        if width > PHONE[0]:
            wide[page.name] = width
    assert not wide


def test_formulas_are_drawn_without_error(browser, pages):
    with_math = [p for p in pages if soup(p).select(".math")]
    assert with_math
    for page in with_math:
        browser.open(page.as_uri())
        drawn, failed = browser.run(
            "[document.querySelectorAll('mjx-container svg').length,"
            " document.querySelectorAll('mjx-merror, [data-mjx-error]').length]"
        )
        assert drawn >= len(soup(page).select(".math")), page.name
        assert failed == 0, page.name


BOARD = "[...document.querySelectorAll('table.cn-board tbody tr')]"


def test_the_score_board_lists_121_papers_sorts_and_filters(browser, html):
    browser.open((html / "scoreboard.html").as_uri())
    assert browser.run(f"{BOARD}.length") == 121
    years = f"{BOARD}.map(row => Number(row.cells[2].textContent))"
    click = "document.querySelectorAll('table.cn-board th button')[2].click()"
    browser.run(click)
    assert (rising := browser.run(years)) == sorted(rising)
    browser.run(click)
    assert (falling := browser.run(years)) == sorted(falling, reverse=True)
    visible = f"{BOARD}.filter(row => row.offsetParent !== null)"
    change = "new Event('input', {bubbles: true})"
    browser.run(
        "const s = document.querySelector('select[data-filter=chapter]');"
        f"s.value = 'binary'; s.dispatchEvent({change}); 0"
    )
    assert browser.run(f"{visible}.length") == 10
    browser.run(
        "const t = document.querySelector('input[data-filter=text]');"
        f"t.value = 'resilient'; t.dispatchEvent({change}); 0"
    )
    assert browser.run(f"{visible}.map(row => row.cells[1].textContent)[0]").startswith("ReBNN")
    assert browser.run(f"{visible}.length") == 1
    assert browser.run("document.querySelector('.cn-count').textContent") == "1 of 121 papers"


def test_the_search_finds_binary(browser, html):
    browser.open((html / "search.html").as_uri() + "?q=binary")
    links = "[...document.querySelectorAll('#search-results ul.search li a')].map(a => a.href)"
    browser.wait(f"{links}.some(link => link.includes('chapters/binary.html'))")
    assert not browser.complaints


def test_every_notebook_page_offers_its_executed_notebook(html, pages):
    notebooks = [p for p in pages if "notebooks" in p.relative_to(html).parts]
    assert notebooks
    for page in notebooks:
        links = [a["href"] for a in soup(page).select("a.btn-download-source-button[href]")]
        files = [(page.parent / link).resolve() for link in links if link.endswith(".ipynb")]
        assert files, f"{page.name} has no download button for a notebook"
        cells = json.loads(files[0].read_text(encoding="utf-8"))["cells"]
        assert any(c.get("outputs") for c in cells), f"{files[0].name} was not executed"


def test_both_color_schemes_keep_text_legible(browser, html):
    for theme in ("light", "dark"):
        browser.open((html / "how-to-read.html").as_uri())
        browser.run(f"document.documentElement.dataset.theme = '{theme}'; 0")
        ratios = browser.run(CONTRAST)
        assert min(ratios) >= 4.5, (theme, ratios)


# Contrast ratio (WCAG) of each chip's text with its ground, and of the page's own text.
CONTRAST = """
(() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => {
      const c = Number(v) / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (text, ground) => {
    const [a, b] = [luminance(text), luminance(ground)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const body = getComputedStyle(document.body);
  const chips = [...document.querySelectorAll('.cn-chip')].map((e) => getComputedStyle(e));
  const ground = getComputedStyle(document.documentElement).backgroundColor;
  const page = body.backgroundColor === 'rgba(0, 0, 0, 0)' ? ground : body.backgroundColor;
  return [ratio(body.color, page), ...chips.map((s) => ratio(s.color, s.backgroundColor))];
})()
"""
