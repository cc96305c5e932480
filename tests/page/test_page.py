"""The page in a real browser: that it loads, lives, reads well, and works by keys, on a phone and without scripts."""

from __future__ import annotations

import subprocess
from os import environ
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import SCREENSHOTS, Demo, Looker, Server
from playwright.sync_api import Locator, Page, expect

import keepbest

MODEL = "/artifacts/run-digits-1-model"
VIEWS = {
    "project": "",
    "run": "/runs/digits-1",
    "run-smooth-log": "/runs/digits-batches?smooth=0.97&scale=log",
    "run-failed": "/runs/digits-2",
    "run-going": "/runs/digits-3",
    "decisions": "/runs/digits-1/decisions",
    "artifact": MODEL,
    "version": f"{MODEL}/versions/production",
    "delete": f"{MODEL}/versions/baseline/delete",
    "compare-versions": f"{MODEL}/compare?v=production&v=baseline",
    "compare-runs": "/compare?run=digits-1&run=digits-2&run=digits-3",
    "not-found": "/runs/nobody",
    # Outside of the project.
    "home": "",
    "team": "",
}
# Statuses of pages that say what went wrong; a browser complains about them.
REFUSED = {"not-found": 404}


def _url(demo: Demo, view: str) -> str:
    outside = {"home": demo.server.url, "team": f"{demo.server.url}/teams/vision"}
    return outside.get(view) or demo.url(VIEWS[view])


def _shot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_each_view_can_be_read_by_everybody(demo: Demo, looker: Looker, view: str, scheme: str) -> None:
    page = looker.page(color_scheme=scheme, reduced_motion="reduce")
    answer = page.goto(_url(demo, view))
    assert answer is not None
    assert answer.status == REFUSED.get(view, 200)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    _shot(page, f"{view}-{scheme}")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    if view in REFUSED:
        looker.complaints = [it for it in looker.complaints if str(REFUSED[view]) not in it]


@pytest.mark.parametrize("view", VIEWS)
def test_on_a_phone_nothing_is_wider_than_it(demo: Demo, looker: Looker, view: str) -> None:
    page = looker.page(viewport={"width": 360, "height": 740}, device_scale_factor=2, is_mobile=True, has_touch=True)
    page.goto(_url(demo, view))
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    _shot(page, f"{view}-phone")
    assert wide <= 0
    if view in REFUSED:
        looker.complaints = []


def test_the_checkpoints_are_on_the_curve(demo: Demo, looker: Looker) -> None:
    page = looker.page()
    page.goto(demo.url("/runs/digits-1"))
    chart = page.locator("figure.curve svg.chart")
    decisions = list(demo.client.decisions("vision/digits/digits-1"))
    saved = [it for it in decisions if it.action == keepbest.SAVE]
    for kind, least in [("best", 1), ("kept", 5), ("given-up", 2), ("deleted", 1), ("skipped", 10)]:
        assert chart.locator(f".mark.{kind}").count() >= least, kind
    assert chart.locator(".mark").count() == len(decisions)
    assert chart.locator(".mark:not(.skipped)").count() == len(saved)
    expect(chart.locator(".names text", has_text="production")).to_be_visible()
    expect(chart.locator(".bands text", has_text="attempt 2")).to_be_visible()
    # A mark leads to its version.
    chart.locator("a.mark.best").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("v")
    expect(page.locator(".title")).to_contain_text("best")


def test_what_lives_changes_without_a_reload(demo: Demo, looker: Looker) -> None:
    page = looker.page()
    page.goto(demo.url("/runs/digits-3"))
    page.evaluate("window.isTheSame = true")
    marks = page.locator("figure.curve svg.chart .mark")
    before = marks.count()
    # The choice of a control that is being used stays.
    page.get_by_role("checkbox", name="accuracy").focus()
    demo.going.epoch(14)
    expect(marks).to_have_count(before + 1, timeout=20_000)
    expect(page.locator("#facts")).to_contain_text("15")
    assert page.evaluate("window.isTheSame")
    assert page.evaluate("document.activeElement.value") == "accuracy"


def test_a_choice_is_shown_in_its_place(demo: Demo, looker: Looker) -> None:
    page = looker.page()
    page.goto(demo.url("/runs/digits-1"))
    page.evaluate("window.isTheSame = true")
    smoothing = page.get_by_label("Smoothing")
    smoothing.focus()
    smoothing.select_option("0.9")
    expect(page.locator("figure.curve path.line.raw").first).to_be_visible()
    # The address is what was chosen, to be sent on; and whoever goes by keys is where they were.
    expect(page).to_have_url(demo.url("/runs/digits-1?m=accuracy&m=learning_rate&m=loss&smooth=0.9"))
    assert page.evaluate("window.isTheSame && document.activeElement.name") == "smooth"


def test_a_pointer_over_the_curve_reads_its_values(demo: Demo, looker: Looker) -> None:
    page = looker.page()
    page.goto(demo.url("/runs/digits-1"))
    chart = page.locator("figure.curve svg.chart")
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator(".tip")
    expect(tip).to_contain_text("val_loss")
    expect(tip).to_contain_text("epoch")
    page.mouse.move(2, 2)
    expect(tip).to_have_count(0)


def _tab_to(page: Page, wanted: Locator) -> None:
    """Go to an element as one does without a mouse."""
    expect(wanted).to_be_visible()
    for _ in range(150):
        if wanted.evaluate("it => it === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} cannot be reached by the tab key")


def test_a_version_is_named_and_deleted_by_keys(demo: Demo, looker: Looker) -> None:
    page = looker.page()
    newest = max(demo.client.versions("vision/digits/run-digits-2-model"), key=lambda it: it.number)
    page.goto(f"{demo.server.url}/{newest.name}")
    _tab_to(page, page.get_by_label("New name"))
    page.keyboard.type("by-keys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("rowheader", name="by-keys")).to_be_visible()
    assert demo.client.version("vision/digits/run-digits-2-model:by-keys").number == newest.number
    oldest = min(demo.client.versions("vision/digits/run-digits-2-model"), key=lambda it: it.number)
    page.goto(f"{demo.server.url}/{oldest.name}")
    _tab_to(page, page.get_by_role("link", name="Delete this version"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("Frees")).to_be_visible()
    assert oldest.number in [it.number for it in demo.client.versions("vision/digits/run-digits-2-model")]
    _tab_to(page, page.get_by_role("button", name="Delete"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("run-digits-2-model")
    assert oldest.number not in [it.number for it in demo.client.versions("vision/digits/run-digits-2-model")]


def test_it_works_without_scripts(demo: Demo, looker: Looker) -> None:
    page = looker.page(java_script_enabled=False)
    page.goto(demo.url("/runs/digits-1"))
    expect(page.locator("svg.chart .mark.best")).to_have_count(1)
    page.get_by_label("Smoothing").select_option("0.9")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("figure.curve path.line.raw").first).to_be_visible()
    page.goto(demo.url(MODEL))
    boxes = page.get_by_role("checkbox")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("table.compare").first).to_be_visible()


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _certificate(folder: Path) -> dict[str, str]:
    """Make an authority and a certificate for this machine; the server's settings for them."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"]
    ca, key, request, pem = (str(folder / name) for name in ("ca.pem", "server.key", "server.csr", "server.pem"))
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl("req", "-x509", *curve, "/CN=Example CA", "-days", "2", "-keyout", f"{ca}.key", "-out", ca)
    _openssl("req", *curve, "/CN=localhost", "-keyout", key, "-out", request)
    signed = ["-CA", ca, "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "2", "-extfile", str(folder / "names")]
    _openssl("x509", "-req", "-in", request, *signed, "-out", pem)
    return {"KEEPBEST_TLS_CERTIFICATE": pem, "KEEPBEST_TLS_KEY": key, "KEEPBEST_CA": ca}


def test_a_token_opens_what_it_may_see(looker: Looker, tmp_path: Path) -> None:
    settings = {"KEEPBEST_AUTH_REQUIRED": "true"} | _certificate(tmp_path)
    server = Server(tmp_path, settings)
    server.url = server.url.replace("http://127.0.0.1", "https://localhost")
    try:
        admin = _keepbest(server, "admin", "init", "--data", str(tmp_path / "data")).strip()
        as_admin = {"KEEPBEST_TOKEN": admin}
        _keepbest(server, "admin", "create-team", "vision", **as_admin)
        token = _keepbest(server, "admin", "create-token", "vision", "--role", "reader", **as_admin).strip()
        page = looker.page(ignore_https_errors=True)
        page.goto(f"{server.url}/teams/vision")
        assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
        _shot(page, "login-light")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{server.url}/teams/vision")
        expect(page.get_by_role("heading", level=1)).to_have_text("vision")
        cookie = page.context.cookies()[0]
        assert cookie["httpOnly"]
        assert cookie["secure"]
        assert cookie["sameSite"] == "Strict"
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    finally:
        server.stop()


def _keepbest(server: Server, *arguments: str, **settings: str) -> str:
    done = subprocess.run(
        [environ["KEEPBEST_BIN"], "--server", server.url, *arguments],
        env=server.settings | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
