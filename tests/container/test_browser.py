"""The web pages in a real browser: the trigger form, what it refuses, and where a run's links lead.

Needs chromium and playwright. ``SCREENSHOTS=folder`` keeps what was seen: ``scripts/screenshots``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.container.conftest import Stack

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 120_000
DAG = "ros_image_pipeline"
GOOD = {"drive_1": {"bucket": "drives", "prefix": "drives/drive_1/"}}

if not CHROMIUM:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def page(stack: Stack) -> Iterator[Page]:
    """A page of a browser that is logged in."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        # A context of its own, so that tests can have further pages that are logged in.
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{stack.url}/")
        page.wait_for_url(re.compile("/login"))
        page.fill("input[name=username]", "airflow")
        page.fill("input[name=password]", "airflow")
        page.click("button[type=submit]")
        page.wait_for_url(re.compile(rf"^{re.escape(stack.url)}/(?!auth)"))
        yield page
        browser.close()


@pytest.fixture(scope="module")
def run_id(stack: Stack) -> str:
    """A run over the demo's drives that has ended well."""
    said = stack.compose("run", "--rm", "demo")
    assert "2 succeeded" in said
    found = re.search(r"/runs/(manual__\S+)", said)
    assert found is not None, said
    return found[1]


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def open_form(stack: Stack, page: Page) -> Locator:
    page.goto(f"{stack.url}/dags/{DAG}")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.locator("[role=dialog][data-state=open]")
    form.locator("#element_drives_to_process .view-lines").wait_for()
    return form


def fill(page: Page, form: Locator, value: Any) -> None:
    form.locator("#element_drives_to_process .view-lines").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(value if isinstance(value, str) else json.dumps(value))
    page.keyboard.press("Shift+Control+End")  # the editor adds what it thinks is missing
    page.keyboard.press("Delete")


def submit(form: Locator) -> Locator:
    return form.get_by_role("button", name="Trigger", exact=True)


def runs(stack: Stack, page: Page) -> list[str]:
    answer = page.request.get(f"{stack.url}/api/v2/dags/{DAG}/dagRuns").json()
    return [run["dag_run_id"] for run in answer["dag_runs"]]


def test_the_form_shows_the_drives_with_their_help(stack: Stack, page: Page) -> None:
    form = open_form(stack, page)
    said = form.inner_text()
    for text in (
        'Drive ids, each with bucket and prefix: {"drive_1": {"bucket": "raw-data", "prefix": "drive_1/"}}',
        "This field is required",
        "S3 URI of the lake",
    ):
        assert text in said
    assert submit(form).is_disabled(), "without drives there is nothing to trigger"


def test_the_form_refuses_a_bad_conf(stack: Stack, page: Page) -> None:
    form, before = open_form(stack, page), runs(stack, page)
    fill(page, form, '{"drive_1": ')
    form.get_by_text("SyntaxError").wait_for()
    assert submit(form).is_disabled()

    fill(page, form, {"drive_1": {"bucket": "drives"}})
    sync_api.expect(submit(form)).to_be_enabled(timeout=PATIENCE_MS)
    with page.expect_response(re.compile(rf"/dags/{DAG}/dagRuns$")) as answer:
        submit(form).click()
    assert answer.value.status == 400
    assert "'prefix' is a required property" in answer.value.json()["detail"]
    page.get_by_text("Failed to Trigger Dag").first.wait_for()
    assert form.is_visible()
    assert runs(stack, page) == before


def test_the_form_starts_a_run(stack: Stack, page: Page, run_id: str) -> None:
    form, before = open_form(stack, page), runs(stack, page)
    fill(page, form, GOOD)
    sync_api.expect(submit(form)).to_be_enabled(timeout=PATIENCE_MS)
    keep(page, "trigger-form")
    with page.expect_response(re.compile(rf"/dags/{DAG}/dagRuns$")) as answer:
        submit(form).click()
    assert answer.value.status == 200
    assert len(runs(stack, page)) == len(before) + 1


@pytest.mark.parametrize("task", ["submit", "wait"])
def test_the_links_of_a_run_open(stack: Stack, page: Page, run_id: str, task: str) -> None:
    page.goto(f"{stack.url}/dags/{DAG}/runs/{quote(run_id)}/tasks/{task}/details")
    page.get_by_role("link", name="Parquet lake").wait_for()
    keep(page, f"run-{task}")
    links = {
        name: page.get_by_role("link", name=name).get_attribute("href")
        for name in ("Batch job", "Batch logs", "Parquet lake")
    }
    shown = {}
    for name, link in links.items():
        assert link is not None
        page.goto(link)
        page.locator("main h1").wait_for()
        shown[name] = page.locator("main").inner_text()
        if name == "Batch job":
            page.get_by_role("link", name=re.compile("^drive_1-")).first.click()
            page.get_by_role("heading", name="Attempts").wait_for()
            shown["job"] = page.locator("main").inner_text()
            keep(page, "batch-job")
    assert "drive_1-" in shown["Batch job"]
    assert "SUCCEEDED" in shown["job"]
    assert "shard" in shown["job"], "its log"
    assert "ros-to-parquet/default/" in shown["Batch logs"]
    assert "imu.data/" in shown["Parquet lake"]


def test_the_page_of_drives_from_airflows_menu_to_a_report(stack: Stack, page: Page, run_id: str) -> None:
    page.goto(f"{stack.url}/")
    page.get_by_role("button", name="Browse").first.click()
    entry = page.get_by_role("menuitem", name="Drives").get_attribute("href")
    assert entry == "/ros-to-parquet/"
    page.goto(f"{stack.url}{entry}")
    page.get_by_role("link", name=run_id, exact=True).click()
    page.get_by_role("heading", name=run_id).wait_for()
    keep(page, "drives-run")
    assert "succeeded 2" in page.locator("main").inner_text()
    report = page.get_by_role("link", name="Report of drive_1").get_attribute("href")
    page.get_by_role("link", name="drive_1", exact=True).click()
    page.get_by_role("heading", name="Shards").wait_for()
    assert "imu.data" in page.locator("main").inner_text()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(f"{stack.url}/ros-to-parquet/{report}")
    assert "drive_1" in page.title()
    assert problems == [], "what the report's policy refuses would be said here"


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_drives_fits_phone_and_desk(
    stack: Stack, page: Page, run_id: str, colours: str, width: int
) -> None:
    other = page.context.new_page()
    other.set_viewport_size({"width": width, "height": 900})
    other.emulate_media(color_scheme=colours)
    run = f"dag={DAG}&run={quote(run_id)}"
    for url in ("", f"run?{run}", f"drive?{run}&drive=drive_1"):
        other.goto(f"{stack.url}/ros-to-parquet/{url}")
        other.locator("main h1").wait_for()
        assert other.evaluate("document.documentElement.scrollWidth") <= width
        background = other.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is (colours == "light")
    other.close()


def test_who_is_not_logged_in_comes_back_to_the_page_of_drives(stack: Stack, page: Page) -> None:
    browser = page.context.browser
    assert browser is not None
    stranger = browser.new_page()
    stranger.goto(f"{stack.url}/ros-to-parquet/")
    stranger.wait_for_url(re.compile("/login"))
    stranger.fill("input[name=username]", "airflow")
    stranger.fill("input[name=password]", "airflow")
    stranger.click("button[type=submit]")
    stranger.wait_for_url(re.compile("/ros-to-parquet/"))
    stranger.get_by_role("heading", name="Drives").wait_for()
    stranger.close()
