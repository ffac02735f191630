"""The page in a real browser: Debian's Chromium, without a head."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from playwright import sync_api

from delf_tf.serving.app import create_app
from tests.serving import collection

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# The first search compiles the kernels: on a busy machine that takes longer than the usual 5 s.
sync_api.expect.set_options(timeout=120_000)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    service = collection.make(tmp_path_factory.mktemp("served"), num_candidates=4)
    app = create_app(service, name="paintings", max_upload_bytes=50_000)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page()
    faults = []
    opened.on("pageerror", lambda fault: faults.append(str(fault)))
    opened.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    opened.goto(address)
    sync_api.expect(opened.locator("#browse .card")).to_have_count(4)
    yield opened
    opened.close()
    # A refusal by the server is an error line of the browser, too.
    assert [one for one in faults if "status of 4" not in one] == []


def _png(seed):
    return collection.png(collection.painting(seed))


def _upload(page, seed=3):
    page.set_input_files("#file", {"name": "q.png", "mimeType": "image/png", "buffer": _png(seed)})
    sync_api.expect(page.locator("#two .card").first).to_be_visible()


def test_an_upload_shows_both_modes_and_their_times(page):
    assert page.inner_text("#collection") == "paintings: 4 images"
    _upload(page)
    sync_api.expect(page.locator("#single .card")).to_have_count(4)
    for column in ("#single", "#two"):
        first = page.locator(f"{column} .card").first
        assert "1. 3.png" in first.inner_text()
        assert "12 inliers" in first.inner_text()
    assert page.locator("#times dt").all_inner_texts() == ["extract", "search", "verify"]
    loaded = "e => e.complete && e.naturalWidth > 0"
    sync_api.expect(page.locator("#single img").first).to_be_visible()
    assert page.locator("#picture").evaluate(loaded)


def test_matches_are_drawn_on_demand(page):
    _upload(page)
    page.locator("#two .card").first.click()
    sync_api.expect(page.locator("#pair svg line")).to_have_count(12)
    assert page.inner_text("#pair-title") == "3.png: 12 inliers of 12 matches"
    # The same picture on both sides: every line is level and ends where it began, a width further.
    lines = page.locator("#pair svg line").evaluate_all(
        "all => all.map(e => ['x1', 'y1', 'x2', 'y2'].map(a => +e.getAttribute(a)))"
    )
    for x1, y1, x2, y2 in lines:
        assert y1 == pytest.approx(y2)
        assert x2 - x1 == pytest.approx(812)


def test_a_box_searches_with_a_part(page):
    _upload(page)
    frame = page.locator("#picture").bounding_box()
    with page.expect_response("**/api/query?*box=*") as caught:
        page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + 1)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] - 1, frame["y"] + frame["height"] - 1)
        page.mouse.up()
    y0, x0, y1, x1 = caught.value.json()["box"]
    assert (y0, x0) == pytest.approx((0, 40), abs=3)
    assert (y1, x1) == pytest.approx((60, 80), abs=3)
    with page.expect_response("**/api/query?*") as caught:
        page.click("#whole")
    assert caught.value.json()["box"] == [0, 0, 60, 80]


def test_an_image_of_the_collection_is_searched_with(page):
    page.locator("#browse .card").nth(1).click()
    sync_api.expect(page.locator("#single .card")).to_have_count(3)
    assert "1.png" not in page.inner_text("#single")


def test_a_pasted_picture_is_searched_with(page):
    content = list(_png(2))
    page.evaluate(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "p.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        content,
    )
    sync_api.expect(page.locator("#two .card").first).to_contain_text("2.png")


def test_what_is_no_picture_is_told_and_another_can_be_tried(page):
    page.set_input_files(
        "#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture at all"}
    )
    message = page.locator("#message.error")
    sync_api.expect(message).to_contain_text("JPEG, PNG, WebP, GIF or BMP")
    sync_api.expect(page.locator("#results")).to_be_hidden()
    page.click("#clear")
    sync_api.expect(message).to_have_count(0)
    _upload(page)


def test_results_and_method_are_chosen(page):
    _upload(page, seed=1)
    sync_api.expect(page.locator("#used")).to_have_text("verification")
    with page.expect_response("**/api/search?*method=none*") as caught:
        page.select_option("#method", "none")
    # The picture is not sent again.
    assert caught.value.json()["seconds"].keys() == {"search", "verify"}
    sync_api.expect(page.locator("#used")).to_have_text("none")
    with page.expect_response("**/api/search?*num_results=12*"):
        page.select_option("#count", "12")


def test_several_pictures_are_one_query(page):
    files = [
        {"name": f"q{seed}.png", "mimeType": "image/png", "buffer": _png(seed)} for seed in (0, 3)
    ]
    with page.expect_response("**/api/search?*combine=mean*") as caught:
        page.set_input_files("#file", files)
    assert caught.value.json()["num_pictures"] == 2
    names = page.locator("#chosen li button:first-child")
    sync_api.expect(names).to_have_text(["q0.png", "q3.png"])
    with page.expect_response("**/api/search?*combine=max*"):
        page.get_by_label("Similarities of the pictures").select_option("max")
    single = page.locator("#single .card")
    sync_api.expect(single.nth(1)).to_contain_text("similarity 1.000")
    # The match is drawn beside the picture that it was found for.
    page.locator("#two .card", has_text="3.png").click()
    sync_api.expect(page.locator("#pair svg line")).to_have_count(12)
    shown = page.locator("#pair svg image").first.get_attribute("href")
    assert shown == page.locator("#picture").get_attribute("src")
    page.keyboard.press("Escape")
    # A part of one of them.
    with page.expect_response("**/api/query?*box=*"), page.expect_response("**/api/search?*"):
        _type_part(page, "50")
    with page.expect_response("**/api/query?*"), page.expect_response("**/api/search?*"):
        page.click("#whole")
    page.get_by_label("Add what I choose to the query").check()
    with page.expect_response("**/api/search?*") as caught:
        page.locator("#browse .card").nth(1).click()
    assert caught.value.json()["num_pictures"] == 3
    for name in ("q0.png", "q3.png"):
        page.get_by_role("button", name=f"Remove {name}").click()
    sync_api.expect(page.locator("#chosen")).to_be_hidden()
    sync_api.expect(page.locator("#single .card")).to_have_count(3)


def test_a_refusal_is_told_on_when_an_earlier_search_ends(page):
    page.get_by_label("Add what I choose to the query").check()
    _upload(page)
    held = []

    def hold(route):
        held.append(route)

    page.route("**/api/search?*", hold)
    page.select_option("#count", "48")
    sync_api.expect(page.locator("#message")).to_have_text("Searching…")
    files = [{"name": f"{at}.png", "mimeType": "image/png", "buffer": b""} for at in range(8)]
    page.set_input_files("#file", files)
    refused = page.locator("#message.error")
    sync_api.expect(refused).to_have_text("A query has at most 8 pictures.")
    with page.expect_response("**/api/search?*"):
        held.pop().continue_()
    sync_api.expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    sync_api.expect(refused).to_have_text("A query has at most 8 pictures.")


def test_what_the_server_forgot_is_sent_again(page):
    _upload(page)
    page.route("**/api/search?*", lambda route: route.fulfill(status=404, json={"error": "old"}))
    with page.expect_response("**/api/query?*num_results=48*") as caught:
        page.select_option("#count", "48")
    assert caught.value.status == 200


def test_results_are_downloaded(page):
    _upload(page)
    with page.expect_download() as caught:
        page.get_by_role("link", name="Results as CSV").click()
    assert caught.value.suggested_filename == "results.csv"
    lines = Path(caught.value.path()).read_text().splitlines()
    assert lines[0] == "stages,rank,image,similarity,inliers"
    assert lines[1] == "1,1,3.png,1.000000,12"
    assert len(lines) == 9


def _focused(page):
    return page.evaluate(
        "(e => e.id || e.textContent.trim() || e.getAttribute('aria-label'))"
        "(document.activeElement)"
    )


def test_everything_is_reached_by_keys_in_the_order_of_the_page(page):
    page.locator("#browse .card").nth(3).focus()
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#two .card")).to_have_count(3)
    assert _focused(page) == "clear"
    reached = []
    while len(reached) < 40 and (not reached or reached[-1] != "0.png"):
        page.keyboard.press("Tab")
        reached.append(_focused(page))
    assert reached[:5] == [
        "add",
        "method",
        "count",
        "Search with a part: draw a box, or type it",
        "csv",
    ]
    assert [one.split("similarity")[0][:3] for one in reached[5:11]] == ["1. ", "2. ", "3. "] * 2
    assert reached[11] == "0.png"
    page.locator("#clear").focus()
    page.keyboard.press("Shift+Tab")
    assert _focused(page) == "file"
    # A pair is opened and closed, and the focus is where it was.
    page.locator("#two .card").first.focus()
    page.keyboard.press("Enter")
    sync_api.expect(page.get_by_role("dialog", name="inliers")).to_be_visible()
    assert _focused(page) == "Close"
    page.keyboard.press("Enter")
    sync_api.expect(page.get_by_role("dialog")).to_be_hidden()
    assert _focused(page).startswith("1. ")
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    assert _focused(page) == "file"
    sync_api.expect(page.locator("#results")).to_be_hidden()


def _type_part(page, left):
    if not page.locator("#edges").is_visible():
        page.locator("#part summary").focus()
        page.keyboard.press("Enter")
    page.get_by_label("Left, %").fill(left)
    page.keyboard.press("Enter")


def test_a_part_is_typed(page):
    _upload(page)
    with page.expect_response("**/api/query?*box=*") as caught:
        _type_part(page, "50")
    assert caught.value.json()["box"] == [0, 40, 60, 80]
    _type_part(page, "100")
    sync_api.expect(page.locator("#message.error")).to_contain_text("Left must be less than right")


def test_what_happens_is_told_to_who_does_not_see_it(page):
    message = page.get_by_role("status")
    assert message.get_attribute("aria-live") == "polite"
    _upload(page)
    sync_api.expect(message).to_have_text("4 results. The best: 3.png")
    sync_api.expect(page.get_by_role("img", name="Query: q.png")).to_be_visible()
    first = (
        page.get_by_role("list", name="One stage global descriptors").get_by_role("button").first
    )
    sync_api.expect(first).to_have_accessible_name("1. 3.png similarity 1.000, 12 inliers")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select")]
          .filter(e => !e.labels.length).map(e => e.id)"""
    )
    assert unnamed == []


def test_names_are_text_not_markup(page):
    hostile = "<img src=x onerror=alert(1)>"
    listed = {"name": hostile, "num_images": 1, "two_stages": True, "methods": [hostile, "a"]}
    listed["images"] = [{"number": 0, "id": hostile}]
    page.route("**/api/collection*", lambda route: route.fulfill(json=listed))
    page.reload()
    sync_api.expect(page.locator("#browse .card")).to_have_count(1)
    assert page.locator("#browse .card span").inner_text() == hostile
    assert page.locator("img[src='x']").count() == 0


def test_the_api_is_described(browser, address):
    opened = browser.new_page()
    opened.goto(f"{address}/api")
    sync_api.expect(opened.locator("h2").first).to_have_text("GET /api/collection")
    assert f"{address}/api/query" in opened.inner_text("#example")
    opened.close()


def test_it_fits_a_phone(browser, address):
    opened = browser.new_page(viewport={"width": 360, "height": 740})
    opened.goto(address)
    _upload(opened)
    width = opened.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    opened.close()
