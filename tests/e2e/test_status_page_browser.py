"""The status page in a real browser: it shows what the reports say, to those who may see it, however they look."""

from importlib import resources

import numpy as np
import pytest

from kvquilt import Client, Credentials, Document
from kvquilt_router.engine.model import prepare
from kvquilt_router.why.quilt import KINDS
from kvquilt_rpc.security import ServerSecurity
from tests.browser import MISSING, browser
from tests.e2e.pages import paged
from tests.router.families import SUPPORTED, tiny
from tests.router.letters import letter_tokenizer
from tests.rpc.certificates import Signer

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 200, 150))
QUESTION = [7, 8, 9, 10]
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\x1b[2J&lt;b&gt; " * 3
ENTER, TAB = "\ue007", "\ue004"
ROWS = """
const found = {};
for (const row of document.querySelectorAll("#patches tr"))
  found[row.dataset.kind] = (found[row.dataset.kind] || 0) + Number(row.dataset.tokens);
return found;
"""


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), letter_tokenizer(), "tiny")


@pytest.fixture(scope="module")
def window():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def used(model, tmp_path_factory):
    """A router that served requests of every kind, and their reports."""
    with paged(model, tmp_path_factory.mktemp("store"), warm_up_passages=8) as (router, url), Client(router) as client:
        named = [Document("a", TEXT), Document("b", OTHER)]
        list(client.prefetch(named, shared_prefix=PREFIX, warm_up=[[9] * 40]))
        list(client.prefetch([Document("c", [*TEXT, *OTHER])], shared_prefix=PREFIX))
        asked = [
            client.blend([OTHER, [5] * 40, TEXT, QUESTION], shared_prefix=PREFIX, policy="none"),
            client.blend([OTHER, TEXT, QUESTION], shared_prefix=PREFIX, policy="random", recompute_ratio=0.4),
            client.blend_plain([*PREFIX, *TEXT[:120], 499, *TEXT[120:], *QUESTION]),
            client.blend([HOSTILE, "What?"]),
        ]
        yield url, [kv.report for kv in asked]


def fresh(window, url):
    """Open a page; what was said and asked before is forgotten."""
    window.open("about:blank")
    window.console()
    window.asked()
    window.open(url)


def choose(window, request_id):
    window.click(f"button[data-id='{request_id}']")
    window.until(f"return document.getElementById('h-detail').textContent === 'Request {request_id}'")


def quiet(window, url):
    """Nothing was complained of, and nothing left for elsewhere."""
    assert window.console() == []
    away = [asked for asked in window.asked() if not asked.startswith((url, "data:"))]
    assert away == []


def test_each_request_is_shown_with_the_tokens_of_its_report(window, used):
    url, reports = used
    window.look(width=1280, dark=False)
    fresh(window, url)
    window.until("return document.querySelectorAll('#requests button').length === arguments[0]", len(reports))
    listed = window.run("return [...document.querySelectorAll('#requests button')].map((b) => b.dataset.id)")
    assert listed == [report.request_id for report in reversed(reports)], "the latest first"
    for report in reports:
        choose(window, report.request_id)
        rows = window.run(ROWS)
        assert rows.get("exact", 0) == report.tokens_exact
        assert sum(rows.get(kind, 0) for kind in ("pair", "warm", "base")) == report.tokens_reused
        assert rows.get("recomputed", 0) == report.tokens_recomputed
        assert rows.get("computed", 0) == report.tokens_computed
        total = sum(rows.values())
        shown = window.run("return document.getElementById('shown').innerText")
        assert f"{total} tokens" in shown
        assert report.level in shown
        for tier, count in report.tokens_by_tier().items():
            assert f"{count} {tier}" in shown
        sources = window.run("return [...document.querySelectorAll('#patches tr')].map((tr) => tr.textContent)")
        assert any("127.0.0.1:" in source and "from the store" in source for source in sources) == bool(
            report.tokens_by_tier()
        )
        label = window.run("return document.getElementById('quilt').getAttribute('aria-label')")
        for kind, count in rows.items():
            assert f"{count} {kind}" in label
        # Patches are as wide as they are long.
        flexes = (
            "return [...document.querySelectorAll('#quilt .row > span')].map((s) => [s.className, s.style.flexGrow])"
        )
        drawn = {}
        for kind, tokens in window.run(flexes):
            drawn[kind] = drawn.get(kind, 0) + int(tokens)
        assert drawn == rows
    sums = window.run(
        "return Object.fromEntries([...document.querySelectorAll('#tokens li')]"
        ".map((li) => [li.dataset.sum, parseInt(li.textContent.replaceAll(',', ''))]))"
    )
    for name in ("exact", "reused", "recomputed", "computed"):
        assert sums[f"tokens_{name}"] == sum(getattr(report, f"tokens_{name}") for report in reports), name
    read = "return [...document.querySelectorAll('#tiers li')].map((li) => li.textContent)"
    stored = sum(report.tokens_by_tier().get("store", 0) for report in reports)
    assert window.run(read) == [f"{stored} from the store (100 %)"]
    assert "Healthy" in window.run("return document.getElementById('health').textContent")
    quiet(window, url)


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_accessible_on_a_phone_and_a_desk_light_and_dark(window, used, width, dark):
    url, reports = used
    window.look(width=width, dark=dark)
    window.open(f"{url}#{reports[1].request_id}")
    window.until("return document.querySelectorAll('#patches tr').length > 0")
    assert window.run("return document.documentElement.scrollWidth") <= width, "no scrolling sideways"
    window.run((resources.files("axe_core_python") / "axe.min.js").read_text("utf-8"))
    found = window.run_async("axe.run(document).then(arguments[0], (error) => arguments[0]({ error: String(error) }))")
    assert "error" not in found
    problems = [(v["id"], [(node["html"], node["failureSummary"]) for node in v["nodes"]]) for v in found["violations"]]
    assert problems == []
    checked = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "button-name", "label", "document-title", "html-has-lang"} - {"label"} <= checked


def test_kinds_differ_without_colour(window, used):
    url, _ = used
    window.look(width=1280, dark=False)
    window.open(url)
    styles = (
        "return Object.fromEntries([...document.querySelectorAll('#legend .swatch')].map((s) => "
        "[s.textContent, getComputedStyle(s).backgroundImage]))"
    )
    patterns = window.until(f"const found = (() => {{ {styles} }})(); return Object.keys(found).length ? found : null")
    assert set(patterns) == {"E", "P", "W", "B", "R", "C"}
    assert len(set(patterns.values())) == len(KINDS), "a pattern each"
    assert patterns["C"] == "none"


def test_it_can_be_used_with_the_keyboard_alone_and_all_controls_have_names(window, used):
    url, reports = used
    window.look(width=1280, dark=False)
    window.open(url)
    window.until("return document.querySelectorAll('#requests button').length === arguments[0]", len(reports))
    for _ in range(2):
        window.type(TAB)
    focused = window.run("return document.activeElement.dataset.id")
    assert focused == reports[-1].request_id, "after the button that pauses comes the first request"
    window.type(ENTER)
    window.until("return document.activeElement.id === 'h-detail'")
    assert focused in window.run("return document.activeElement.textContent")
    tree = window.devtools("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "textbox", "table", "image", "region", "heading"}
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    assert {role for role, _ in roles} >= {"button", "table", "image", "heading", "main", "list"}
    assert [role for role, name in roles if role in named and not name] == []
    window.run("history.back()")
    window.until("return document.getElementById('detail').hidden")


def test_text_is_inert_and_shown_only_where_that_was_asked_for(window, used, model, tmp_path):
    url, reports = used
    window.open(url)
    window.until("return document.querySelectorAll('#requests button').length === arguments[0]", len(reports))
    choose(window, reports[-1].request_id)
    assert "hacked" not in window.run("return document.body.innerText"), "no text by default"
    with paged(model, tmp_path, status_text=True) as (router, shows), Client(router) as client:
        report = client.blend([HOSTILE, "What is <b>this</b>?"]).report
        fresh(window, shows)
        window.until("return document.querySelectorAll('#requests button').length === 1")
        choose(window, report.request_id)
        assert HOSTILE[:40] in window.run("return document.getElementById('patches').innerText")
        assert window.run("return [window.hacked, document.querySelectorAll('#main script, #main img').length]") == [
            None,
            0,
        ]
        quiet(window, shows)


def test_each_tenant_sees_its_own_and_the_token_is_not_kept(window, model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    options = {
        "security": ServerSecurity(token_key=signer.public),
        "master_secret": "a master secret for tests, long enough",
    }
    with paged(model, tmp_path / "store", **options) as (router, url):
        tokens = {name: signer.token(name, name) for name in ("a", "b")}
        ids = {}
        for name, token in tokens.items():
            with Client(router, Credentials(token=token)) as client:
                ids[name] = client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report.request_id
        window.open(f"{url}#{ids['b']}")
        window.until("return !document.getElementById('signin').hidden")
        assert window.run("return document.getElementById('main').hidden")

        def sign_in(token):
            window.run(
                "document.getElementById('token').value = arguments[0]; document.getElementById('token').focus()", token
            )
            window.type(ENTER)

        sign_in("no token")
        window.until("return document.getElementById('refused').textContent.includes('refused')")
        sign_in(tokens["a"])
        window.until("return document.querySelectorAll('#requests button').length === 1")
        assert window.run("return document.querySelector('#requests button').dataset.id") == ids["a"]
        window.until("return document.getElementById('gone').textContent.includes('no record')")
        page = window.run("return document.documentElement.outerHTML")
        assert ids["b"] not in page
        assert tokens["a"] not in page
        kept = (
            "return [localStorage.length, sessionStorage.length, document.cookie, location.href.includes(arguments[0])]"
        )
        assert window.run(kept, tokens["a"]) == [0, 0, "", False]
        assert window.run("return document.getElementById('queues-part').hidden"), "figures of all are not its to see"
        window.open("about:blank")
        window.open(url)
        window.until("return !document.getElementById('signin').hidden")


def test_a_router_that_goes_away_is_said_so(window, model, tmp_path):
    with paged(model, tmp_path) as (_, url):
        window.open(url)
        window.until("return document.getElementById('health').textContent.includes('Healthy')")
    window.until("return document.getElementById('health').textContent.includes('does not answer')")
