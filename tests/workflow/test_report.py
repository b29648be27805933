"""The report of the micro sweep in a real browser: no network, no errors, a table that sorts and filters, figures that show."""

import json
import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from scripts.core.analysis import style

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)")
LARGEST = 15e6


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, "no-first-run", "window-size=1300,1000", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(15)  # the report is a program that draws its pages when they are asked for
    yield driver
    driver.quit()


def opened(browser, path):
    """Open a file; fails for a console error or for anything that is asked of a network."""
    browser.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert path.as_uri() in asked and not [url for url in asked if url.startswith(("http:", "https:", "ws:", "wss:"))], asked
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def column(browser, name):
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#scores tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    heads = browser.execute_script("return [...document.querySelectorAll('#scores th[data-column]')].map(h => h.dataset.column)")
    return [row[heads.index(name)] for row in rows]


def sorts_and_filters(browser, finished):
    """The table of scores on the page in view; every row that is left names the file and the versions it comes from."""
    button = browser.find_element("css selector", "th[data-column=value] button")
    for reverse in (False, True):
        browser.execute_script("arguments[0].click()", button)
        values = [float(value) for value in column(browser, "value") if value != "–"]
        assert values == sorted(values, reverse=reverse) and len(set(values)) > 1
    box = browser.find_element("css selector", "input[aria-label='filter method']")
    box.send_keys("npo")
    assert set(column(browser, "method")) == {"npo"}
    assert (
        all((finished.results / file).is_file() for file in column(browser, "file")) and "torch" in column(browser, "versions")[0]
    )


def test_the_page(browser, finished):
    page = finished.results / "report" / "results.html"
    opened(browser, page)
    found = [one.text for one in browser.find_elements("css selector", "#findings li")]
    assert found == (finished.results / "report/findings.txt").read_text().splitlines() and len(found) == 5
    assert "4 unlearned models" in found[0]
    sizes = browser.execute_script("return [...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 100])")
    drawn = {path.stem: style.EMPTY not in path.read_text() for path in (finished.results / "figures").glob("*.svg")}
    assert dict(sizes) == {name: True for name, full in drawn.items() if full}
    (rest,) = [one.text for one in browser.find_elements("css selector", "p") if "nothing to draw" in one.text]
    assert set(rest.rstrip(".").split(": ")[1].split(", ")) == {name for name, full in drawn.items() if not full}
    sorts_and_filters(browser, finished)
    assert len(browser.find_elements("css selector", ".texts tr")) > 4


def test_snakemakes_report(browser, finished):
    path = finished.folder / "report.html"
    finished.run("--report", str(path))
    assert os.path.getsize(path) < LARGEST
    opened(browser, path)
    # The very first page tells what was found, in full, without a click or a turn of the wheel.
    found = browser.find_elements("css selector", ".findings li")
    assert [one.text for one in found] == (finished.results / "report/findings.txt").read_text().splitlines() and len(found) == 5
    height = browser.execute_script("return innerHeight")
    assert all(one.is_displayed() and 0 <= one.rect["y"] <= height - one.rect["height"] for one in found)
    text = browser.find_element("tag name", "body").text
    assert "Findings" in text and "Figures" in text
    # From there a link leads to every score and what it was made from.
    browser.find_element("link text", "results.html").click()
    browser.find_element("css selector", "td a[href='#']").click()
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    sorts_and_filters(browser, finished)
    shown = "return document.images.length > 0 && [...document.images].every(i => i.complete && i.naturalWidth > 100)"
    WebDriverWait(browser, 15).until(lambda _: browser.execute_script(shown))
    browser.switch_to.default_content()
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
