"""`kvquilt top`: what it shows of a real router, in a terminal and without one, and how it ends."""

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from fcntl import ioctl

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt import Client, Document
from kvquilt.served import Patch
from kvquilt.top.drawing import BLOCKS, cells, printable
from kvquilt.top.sampling import KINDS
from kvquilt_router.engine.model import prepare
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from tests.router.families import SUPPORTED, tiny
from tests.stack import in_thread, node_process, serve

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 200, 150))
QUESTION = [7, 8, 9, 10]
OPTIONS = {"background": False, "warm_up_passages": 0, "chunk_tokens": 256, "profile": "", "ungated": True}
COMMAND = [sys.executable, "-m", "kvquilt", "top", "--interval", "0.1"]
# A session's leader that opens a terminal gets it as its own: then Ctrl-C is a signal.
_LEAD = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@pytest.fixture
def used(model, tmp_path):
    """A router that served two requests, and their reports."""
    with serve(model, tmp_path, **OPTIONS) as router, Client(router) as client:
        list(client.prefetch([Document("a", TEXT), Document("b", OTHER)], shared_prefix=PREFIX))
        reports = [client.blend([OTHER, text, QUESTION], shared_prefix=PREFIX).report for text in (TEXT, [5] * 90)]
        yield router, reports


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, command):
        self.ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.before = termios.tcgetattr(theirs)
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
        environment.pop("NO_COLOR", None)
        leads = [sys.executable, "-c", _LEAD, *command]
        self.process = subprocess.Popen(
            leads, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        self.theirs = theirs
        self.seen = ""

    def until(self, words):
        """Read until all of these have come since the last time; what has come."""
        end = time.monotonic() + 240
        while not all(word in _plain(self.seen) for word in words):
            ready, _, _ = select.select([self.ours], [], [], 120)
            assert ready, f"expected {words}; got {_plain(self.seen)[-3000:]}"
            assert time.monotonic() < end, f"expected {words}; got {_plain(self.seen)[-3000:]}"
            self.seen += os.read(self.ours, 1 << 16).decode("utf-8", "replace")
        found, self.seen = self.seen, ""
        return found

    def type(self, keys):
        os.write(self.ours, keys.encode())

    def end(self):
        """Its exit code, what it wrote last, and whether the terminal is as it was."""
        while self.process.poll() is None:
            if select.select([self.ours], [], [], 0.05)[0]:
                self.seen += os.read(self.ours, 1 << 16).decode("utf-8", "replace")
        while select.select([self.ours], [], [], 0)[0]:
            self.seen += os.read(self.ours, 1 << 16).decode("utf-8", "replace")
        return self.process.returncode, self.seen, termios.tcgetattr(self.theirs) == self.before

    def close(self):
        self.process.kill()
        self.process.wait(30)
        os.close(self.ours)
        os.close(self.theirs)


def _plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@contextmanager
def terminal(*arguments):
    opened = Terminal([*COMMAND, *arguments])
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("key", ["q", "\x03"], ids=["q", "Ctrl-C"])
def test_a_screen_shows_the_router_and_a_key_ends_it(used, key):
    router, (first, second) = used
    with terminal(router) as screen:
        shown = screen.until(["healthy", first.request_id[:8], second.request_id[:8], "answers", "store", "recomputed"])
        assert "\x1b[?1049h" in shown, "a screen of its own"
        text = _plain(shown)
        for name in ("exact", "reused"):
            count = getattr(first, f"tokens_{name}") + getattr(second, f"tokens_{name}")
            assert re.search(rf"{name} +{count} ", text), (name, count, text)
        lines = [line for line in text.splitlines() if line.strip().startswith(first.request_id[:8])]
        assert set(lines[0]) & set(BLOCKS.values()) >= {BLOCKS["exact"], BLOCKS["base"]}
        assert "2 requests" in text
        screen.type(key)
        code, last, restored = screen.end()
    assert (code, restored) == (0, True)
    assert "\x1b[?1049l" in last, "the screen that was there before is back"


def test_a_router_that_goes_away_is_said_so_and_waited_for(model, tmp_path):
    with node_process(tmp_path) as (_, node):

        def router(port):
            return in_thread(lambda: running_router(RouterSettings(port=port, nodes=node, **OPTIONS), model))

        with router(0) as address:
            port = int(address.rsplit(":", 1)[1])
        with terminal(address) as screen:
            for _ in range(2):
                screen.until(["DOES NOT ANSWER"])
                with router(port):
                    screen.until(["healthy"])
            screen.until(["DOES NOT ANSWER"])
            screen.type("q")
            assert screen.end()[0] == 0


def test_without_a_terminal_it_prints_lines_and_json_is_a_snapshot_a_line(used):
    router, reports = used
    for arguments, read in (([], str), (["--json"], json.loads)):
        process = subprocess.Popen([*COMMAND, router, *arguments], stdout=subprocess.PIPE, text=True)
        lines = [read(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.stdout.close()
        if not arguments:
            assert all("healthy; 1/1 nodes; 2 requests" in line for line in lines)
            assert "\x1b" not in "".join(lines)
    for snapshot in lines:
        assert snapshot["error"] == ""
        for kind, count in snapshot["tokens"].items():
            assert count == sum(getattr(report, f"tokens_{kind}") for report in reports)
        assert {request["request_id"] for request in snapshot["slowest"]} == {r.request_id for r in reports}
        assert sum(snapshot["recent"].values()) == sum(snapshot["tokens"].values())
        assert [tier["name"] for tier in snapshot["nodes"][0]["tiers"]] == ["store"]
    assert lines[0]["tokens_per_second"] is None
    assert lines[-1]["tokens_per_second"] == 0, "nothing was asked meanwhile"


def test_once_looks_once_and_tells_a_router_that_does_not_answer(used):
    router, _ = used
    done = subprocess.run([*COMMAND, router, "--once"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "healthy" in done.stdout
    done = subprocess.run([*COMMAND, "127.0.0.1:1", "--once", "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 5
    assert json.loads(done.stderr)["error"]["reason"] == "unavailable"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(used, width):
    router, reports = used
    environment = {**os.environ, "COLUMNS": str(width), "PYTHONIOENCODING": "utf-8"}
    command = [*COMMAND, router, "--once"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment).stdout
    assert max(map(len, (line.rstrip() for line in shown.splitlines()))) <= width
    for words in (f"{router} ", "of 1.0 GiB", "loads 0 of 32", "computed", *(r.request_id[:8] for r in reports)):
        assert words in shown.replace("\n", " \n"), words
    assert "\u2026" not in shown


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 500)), min_size=1, max_size=40), st.integers(1, 90))
def test_a_line_of_cells_has_the_width_and_the_order_of_the_quilt(runs, width):
    patches, begin = [], 0
    for kind, tokens in runs:
        patches.append(Patch(kind, begin, tokens, None))
        begin += tokens
    drawn = cells(patches, width)
    assert len(drawn) == min(width, begin)
    assert set(drawn) <= {patch.kind for patch in patches}
    if begin <= width:
        assert drawn == [patch.kind for patch in patches for _ in range(patch.tokens)]
    assert cells([Patch("exact", 0, begin, None)], width) == ["exact"] * len(drawn)


def test_nothing_that_a_terminal_takes_for_a_command_is_written():
    assert printable("a\x1b[2Jb\x9b\r\n") == "a?[2Jb???"
