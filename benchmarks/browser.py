"""Chromium without a screen and without a network but the loopback, driven by its DevTools protocol.

A page counts as opened when its words are there; what it asked for and did not get, and what its console complained of, is kept.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from flows.processes import Command, environment

WIDTH, HEIGHT = 1400, 900
_STARTED = 60.0  # seconds until the browser listens
_SHOWN = 90.0  # seconds until a page shows its words: MLflow's first page on a busy machine
_QUIET = 1.5  # seconds without a request under way: nothing more is coming
_LISTENS = "DevTools listening on "


def chromium() -> str:
    """The browser's path; InkwellError where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        raise InkwellError(
            "Chromium is not installed: `apt install chromium`, or leave the part `screens` out (--only)."
        )
    return found


@dataclass
class Seen:
    """What became of one page: `missing` names failed requests, console errors and words that never came."""

    picture: bytes
    missing: list[str] = field(default_factory=list)


class Browser:
    """One browser; `look` opens a page in a tab of its own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []

    def look(self, address: str, words: Sequence[str] = ()) -> Seen:
        """Open `address`, wait until all of `words` are on the page and its requests are answered, and take a picture."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        try:
            return self._look(session, address, words)
        finally:
            self._call("Target.closeTarget", targetId=target)

    def _look(self, session: str, address: str, words: Sequence[str]) -> Seen:
        self._events.clear()
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable", session)
        self._call(
            "Emulation.setDeviceMetricsOverride", session, width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
        )
        told = self._call("Page.navigate", session, url=address)
        if "errorText" in told:
            return Seen(b"", [f"{address}: {told['errorText']}"])
        lacking = self._settle(session, words)
        picture = base64.b64decode(self._call("Page.captureScreenshot", session, format="png")["data"])
        return Seen(
            picture, [*complaints(self._of(session)), *(f"{address} does not show {word!r}" for word in lacking)]
        )

    def _of(self, session: str) -> list[dict[str, Any]]:
        return [event for event in self._events if event.get("sessionId") == session]

    def _settle(self, session: str, words: Sequence[str]) -> list[str]:
        """Wait for the words and then for quiet; the words that never came."""
        deadline = time.monotonic() + _SHOWN
        lacking = list(words)
        quiet_since = time.monotonic()
        heard = 0
        while time.monotonic() < deadline:
            shown = self._call(
                "Runtime.evaluate",
                session,
                expression="document.body ? document.body.innerText : ''",
                returnByValue=True,
            )
            text = str(shown.get("result", {}).get("value") or "")
            lacking = [word for word in words if word not in text]
            events = self._of(session)
            loaded = any(event["method"] == "Page.loadEventFired" for event in events)
            if len(events) > heard and any(event["method"].startswith("Network.") for event in events[heard:]):
                quiet_since = time.monotonic()
            heard = len(events)
            if loaded and not lacking and time.monotonic() - quiet_since > _QUIET:
                break
            # A page that asks again and again is never quiet: its words are enough after some seconds.
            if loaded and not lacking and time.monotonic() > deadline - _SHOWN + 15 and not _under_way(events):
                break
            self._listen(0.2)
        return lacking

    def _call(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        asked: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            asked["sessionId"] = session
        self._connection.send(json.dumps(asked))
        while True:
            try:
                answer = json.loads(self._connection.recv(timeout=_SHOWN))
            except TimeoutError:
                raise InkwellError(f"Chromium does not answer {method} ({_SHOWN:.0f} seconds).") from None
            if answer.get("id") == number:
                if "error" in answer:
                    raise InkwellError(f"Chromium refuses {method}: {answer['error'].get('message')}.")
                found: dict[str, Any] = answer["result"]
                return found
            if "method" in answer:
                self._events.append(answer)

    def _listen(self, seconds: float) -> None:
        """Take in the events of the next `seconds`."""
        until = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                self._events.append(json.loads(self._connection.recv(timeout=left)))


def _under_way(events: Sequence[dict[str, Any]]) -> set[str]:
    """Requests that are neither answered nor given up."""
    waiting: set[str] = set()
    for event in events:
        if event["method"] == "Network.requestWillBeSent":
            waiting.add(event["params"]["requestId"])
        elif event["method"] in ("Network.loadingFinished", "Network.loadingFailed"):
            waiting.discard(event["params"]["requestId"])
    return waiting


def complaints(events: Sequence[dict[str, Any]]) -> list[str]:
    """Failed requests and errors of the console among DevTools events, a sentence each, each once."""
    asked: dict[str, str] = {}
    found: list[str] = []
    for event in events:
        told = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                asked[told["requestId"]] = told["request"]["url"]
            case "Network.responseReceived" if told["response"]["status"] >= 400:
                found.append(f"{told['response']['url'][:200]}: status {told['response']['status']}")
            # A page that moves on gives up requests itself.
            case "Network.loadingFailed" if not told.get("canceled"):
                found.append(f"{asked.get(told['requestId'], 'a request')[:200]}: {told.get('errorText', 'failed')}")
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                words = details.get("exception", {}).get("description") or details.get("text", "")
                found.append(f"exception: {words[:300]}")
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "assert"):
                said = " ".join(str(part.get("value", part.get("description", ""))) for part in told["args"])
                found.append(f"console: {said[:300]}")
            # Failed requests come here a second time, under the source "network".
            case "Log.entryAdded" if told["entry"]["level"] == "error" and told["entry"]["source"] != "network":
                found.append(f"log: {told['entry']['text'][:300]}")
            case _:
                pass
    return list(dict.fromkeys(found))


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in `folder`; it ends with the block, and with this process."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    profile.mkdir(parents=True)
    command = [
        chromium(),
        "--headless=new",
        # Drawn by the processor: Prefect's graph of a run wants WebGL.
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # the sandbox refuses root
        # No host but the loopback: what a page wants from elsewhere fails, and is seen.
        "--host-resolver-rules=MAP * 127.0.0.1:9, EXCLUDE 127.0.0.1",
        f"--window-size={WIDTH},{HEIGHT}",
        f"--user-data-dir={profile}",
        "--remote-debugging-port=0",
        "about:blank",
    ]
    with Command(command, folder, environment(), together=True) as running:
        listens: queue.Queue[str] = queue.Queue()

        def read() -> None:
            for line in running.lines():
                if line.startswith(_LISTENS):
                    listens.put(line.removeprefix(_LISTENS).strip())
            listens.put("")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            try:
                address = listens.get(timeout=_STARTED)
            except queue.Empty:
                address = ""
            if not address:
                raise InkwellError(f"Chromium did not start within {_STARTED:.0f} seconds ({command[0]}).")
            with connect(address, max_size=None, proxy=None, compression=None, ping_interval=None) as connection:
                yield Browser(connection)
        except ConnectionClosed as error:
            raise InkwellError("Chromium has ended in the middle of a page.") from error
        finally:
            running.end()
            reader.join(5)
