"""Pages in a real browser: what is whole, what misses something, and that nobody outside is asked."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from benchmarks.browser import HEIGHT, WIDTH, Browser, complaints, opened
from benchmarks.screens import Screen, photograph
from tests.datacard.browser import CHROMIUM
from tests.loopback import listening

PAGES = {
    "/whole": "<!doctype html><link rel='icon' href='data:,'><p id='p'></p><script>setTimeout(() => p.textContent = 'It has come', 700)</script>",
    "/lacking": "<!doctype html><link rel='icon' href='data:,'><p>Here</p><script src='/nowhere.js'></script>"
    "<script>console.error('a complaint'); setTimeout(() => { throw new Error('a mistake') })</script>",
    "/accounts": "<!doctype html><link rel='icon' href='data:,'><p>Here</p><script>fetch('/users/current'); fetch('/users/others')</script>",
    "/outward": "<!doctype html><link rel='icon' href='data:,'><p>Here</p><img src='http://elsewhere.example/picture.png'>",
}


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A server with these pages and nothing else."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = PAGES.get(self.path)
            body = (page or "no such page").encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listening(Pages) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with opened(tmp_path_factory.mktemp("browser")) as found:
        yield found


def test_a_page_is_photographed_when_its_words_have_come(browser: Browser, site: str, tmp_path: Path) -> None:
    assert photograph(browser, Screen("whole", f"{site}/whole", ("It has come",)), tmp_path) == []
    picture = (tmp_path / "whole.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (WIDTH, HEIGHT)


def test_what_a_page_misses_is_named_and_one_page_does_not_colour_the_next(browser: Browser, site: str) -> None:
    missing = browser.look(f"{site}/lacking", ("Here",)).missing
    assert f"{site}/nowhere.js: status 404" in missing
    assert "console: a complaint" in missing
    assert any("a mistake" in line for line in missing)
    assert len(missing) == 3
    assert browser.look(f"{site}/whole").missing == []


def test_what_a_page_may_lack_is_not_counted_and_no_other_request_with_it(
    browser: Browser, site: str, tmp_path: Path
) -> None:
    asked = "/users/current: status 404"
    page = Screen("accounts", f"{site}/accounts", ("Here",), (asked,))
    assert f"{site}{asked}" in browser.look(page.address, page.words).missing
    assert photograph(browser, page, tmp_path) == [f"{site}/users/others: status 404"]


def test_a_request_to_another_host_fails_and_is_seen(browser: Browser, site: str) -> None:
    missing = browser.look(f"{site}/outward", ("Here",)).missing
    assert len(missing) == 1
    assert missing[0].startswith("http://elsewhere.example/picture.png: net::ERR_")


def test_an_address_without_a_server_is_told(browser: Browser) -> None:
    seen = browser.look("http://127.0.0.1:9/")
    assert seen.picture == b""
    assert "net::ERR_" in seen.missing[0]


def test_requests_that_a_page_gives_up_itself_are_no_complaint() -> None:
    asked = {"requestId": "1", "request": {"url": "http://127.0.0.1/a"}}
    events = [
        {"method": "Network.requestWillBeSent", "params": asked},
        {
            "method": "Network.loadingFailed",
            "params": {"requestId": "1", "errorText": "net::ERR_ABORTED", "canceled": True},
        },
        {"method": "Log.entryAdded", "params": {"entry": {"level": "error", "source": "network", "text": "twice"}}},
    ]
    assert complaints(events) == []
    events[1]["params"]["canceled"] = False
    assert complaints(events) == ["http://127.0.0.1/a: net::ERR_ABORTED"]
