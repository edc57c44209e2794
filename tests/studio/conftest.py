"""A studio in a process of its own and a headless Chromium. Without a Chromium on the machine these tests are skipped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@contextmanager
def studio(*flags: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a running studio."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **(environment or {})}
    process = subprocess.Popen([sys.executable, "-m", "ownship", "studio", "--port", "0", "--model", "scripted", *flags],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"https?://\S+", line):
                break
        else:
            raise AssertionError("".join(said))
        threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True).start()  # a full pipe would stop it
        yield found[0].replace("0.0.0.0", "127.0.0.1")
        broken = [line for line in said if "Traceback" in line or "Error" in line]
        assert not broken, "".join(said)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with studio() as address:
        yield address


@pytest.fixture(scope="module")  # while playwright runs, so does an event loop in this thread, which other tests must not meet
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


class Tab:
    """A user's tab, which notes what went wrong in it and where it asked."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": {"width": 960, "height": 600}, "reduced_motion": "reduce", **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))

    def open(self) -> Tab:
        self.page.goto(f"{self.url}/worlds")
        self.page.wait_for_selector(".world-view[data-ready=true]")
        self.page.wait_for_function("document.querySelector('.world-view').dataset.version !== undefined")
        return self

    @property
    def view(self) -> dict[str, str]:
        said: dict[str, str] = self.page.eval_on_selector(".world-view", "(view) => ({...view.dataset})")
        return said

    @property
    def eye(self) -> list[float]:
        return [float(part) for part in self.view["eye"].split()]

    def seen(self, version: int) -> None:
        self.page.wait_for_selector(f'.world-view[data-version="{version}"]')

    def say(self, words: str, version: int) -> None:
        """Types the words, and waits until the view shows that version of the world."""
        self.page.fill("#words", words)
        self.page.press("#words", "Enter")
        self.seen(version)

    def close(self) -> None:
        self.context.close()
        assert not self.wrong
        assert {asked.split("/")[2] for asked in self.asked if not asked.startswith(("data:", "blob:"))} == {self.url.split("/")[2]}


@pytest.fixture
def tab(browser: Any, url: str) -> Iterator[Tab]:
    one = Tab(browser, url).open()
    yield one
    one.close()
