"""The what-if page in a real Chromium: what it shows is what Python simulates, by mouse, keyboard and address."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import complaints, look, open_page, settle
from gptfluence.page import write
from gptfluence.page.write import write_page
from gptfluence.simulators.data import load_group
from gptfluence.simulators.files import load_simulator
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from whatif import HOSTILE, simulate, write_made_up

UNITS = {"loss": 1.0, "bleu": 100.0}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_made_up(tmp_path_factory.mktemp("made_up"))


@pytest.fixture(scope="module")
def page(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "whatif.html"
    write_page(spec, path)
    return path


@pytest.fixture(autouse=True)
def no_complaints(browser: Chrome) -> Iterator[None]:
    complaints(browser)
    look(browser, 1366)
    yield
    assert complaints(browser) == []


def simulated(spec: dict[str, Any], metric: str, run: int, edits: dict[int, int | None]) -> tuple[Any, Any, Any]:
    (group,) = spec["groups"]
    (own,) = (one for one in group["metrics"] if one["metric"] == metric)
    data = load_group(group | own | {"features": None})
    return simulate(load_simulator(own["simulator"])[0], data, run, edits)


def column(browser: Chrome, heading: str) -> np.ndarray:
    """Return a column of the table of all values, as the page has it."""
    values = browser.execute_script(
        """const table = document.getElementById('all-values');
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === arguments[0]);
        return [...table.tBodies[0].rows].map((row) => row.cells[at].querySelector('data').value);""",
        heading,
    )
    return np.array(values, float)


def value(browser: Chrome, name: str) -> float:
    return float(browser.find_element(By.CSS_SELECTOR, f"#value-{name} data").get_attribute("value"))


def said(browser: Chrome) -> str:
    return browser.find_element(By.CSS_SELECTOR, "[role=status][aria-live=polite]").text


@pytest.mark.parametrize("metric", UNITS)
@pytest.mark.parametrize("edits", [{}, {0: 7, 3: 11, 4: None, 9: 0, 15: None}], ids=["as it was", "edited"])
def test_values_and_intervals_are_those_of_python(
    browser: Chrome, page: Path, spec: dict[str, Any], metric: str, edits: dict[int, int | None]
) -> None:
    words = "_".join(f"{place}.{'x' if example is None else example}" for place, example in edits.items())
    for run, test in ((5, 0), (6, 4), (0, 2)):
        open_page(
            browser, page, f"group=g&metric={metric}&test={test}&run=g-{run:02d}" + (f"&edits={words}" if words else "")
        )
        browser.find_element(By.CSS_SELECTOR, ".values summary").click()
        settle(browser)
        values, widths, distance = simulated(spec, metric, run, edits)
        bar = 1e-4 * UNITS[metric]
        np.testing.assert_allclose(column(browser, "A, predicted"), values[:, test], rtol=0, atol=bar)
        np.testing.assert_allclose(column(browser, "A, 80% from"), (values - widths[1])[:, test], rtol=0, atol=bar)
        np.testing.assert_allclose(column(browser, "to"), (values + widths[1])[:, test], rtol=0, atol=bar)
        text = browser.find_element(By.CSS_SELECTOR, ".standing").text
        assert f"fitted curricula {distance[0]:.2f} " in text
        assert (f"{distance[0]:.1f} times as far" in text) == (distance[0] > 1)
        assert ("skill 0.50 [0.12, 0.88]" in text.replace("0.13", "0.12")) == (metric == "loss")


def test_what_is_left_out_is_said_and_moves_no_value(
    browser: Chrome, spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "LIMIT", 0)
    write_page(spec, tmp_path / "whatif.html")
    values, _, distance = simulated(spec, "loss", 5, {})
    for test, place in ((0, 0), (1, 3)):  # one test a task
        open_page(browser, tmp_path / "whatif.html", f"group=g&metric=loss&test={test}&run=g-05&step=8")
        assert value(browser, "a") == pytest.approx(values[-1, place], abs=1e-4)
        assert f"fitted curricula {distance[0]:.2f} " in browser.find_element(By.CSS_SELECTOR, ".standing").text
        notes = [note.text for note in browser.find_elements(By.CSS_SELECTOR, ".note")]
        assert any("nor the 1 runs on them" in note for note in notes)
        assert any("b_task 1 of 3, a_task 1 of 2" in note for note in notes)


def test_measured_curves_are_there(browser: Chrome, page: Path, spec: dict[str, Any]) -> None:
    open_page(browser, page, "group=g&metric=loss&test=1&run=g-05")
    browser.find_element(By.CSS_SELECTOR, ".values summary").click()
    settle(browser)
    data = load_group(spec["groups"][0] | spec["groups"][0]["metrics"][0] | {"features": None})
    np.testing.assert_allclose(column(browser, "A, measured"), data.dynamics.values[5, :, 1], rtol=0, atol=1e-4)
    drawn = browser.find_element(By.CSS_SELECTOR, ".chart path.run").get_attribute("d")
    assert drawn.count("M") == len(data.runs)


def test_a_click_puts_an_example_in_and_the_prediction_moves(browser: Chrome, page: Path, spec: dict[str, Any]) -> None:
    open_page(browser, page, "group=g&metric=loss&test=0&run=g-05&step=8&slot=1&until=end")
    browser.find_element(By.ID, "slot-0").click()
    Select(browser.find_element(By.CSS_SELECTOR, ".pool select")).select_by_visible_text("by number")
    browser.find_element(By.CSS_SELECTOR, "[data-example='9']").click()
    settle(browser)
    values, _, _ = simulated(spec, "loss", 5, {14: 9})
    assert value(browser, "a") == pytest.approx(values[-1, 0], abs=1e-4)
    assert "Update 8, slot 1: b_task" not in said(browser)  # rows 6 to 11 are of the second training task
    assert said(browser).startswith("Update 8, slot 1: a_task 3.")
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Take a_task 3 out of slot 1']").click()
    settle(browser)
    values, _, _ = simulated(spec, "loss", 5, {14: None})
    assert value(browser, "a") == pytest.approx(values[-1, 0], abs=1e-4)


def test_an_opened_page_shows_what_was_asked_and_no_trace_of_rehearsals(browser: Chrome, page: Path) -> None:
    for edits, heading in (("", "Curriculum A"), ("&edits=14.9", "Curriculum A: 1 of")):
        open_page(browser, page, "group=g&metric=loss&test=0&run=g-05&step=8&slot=0" + edits)
        first = browser.find_element(By.ID, "app").get_attribute("innerHTML")
        time.sleep(0.5)
        assert browser.find_element(By.ID, "app").get_attribute("innerHTML") == first
        title = browser.find_element(By.ID, "curriculum").text
        assert title.startswith(heading) if edits else title == heading
        assert said(browser) == ""
        assert ("edits=14.9" in browser.execute_script("return location.hash")) == bool(edits)
        browser.find_element(By.ID, "slot-1").click()
        settle(browser)
        assert browser.find_element(By.ID, "curriculum").text == title


def test_an_example_is_dragged_into_a_slot_and_slots_are_swapped(
    browser: Chrome, page: Path, spec: dict[str, Any]
) -> None:
    open_page(browser, page, "group=g&metric=loss&test=0&run=g-05&step=8")
    Select(browser.find_element(By.CSS_SELECTOR, ".pool select")).select_by_visible_text("by number")
    example = browser.find_element(By.CSS_SELECTOR, ".palette li:nth-child(2)")
    ActionChains(browser).drag_and_drop(
        example, browser.find_element(By.CSS_SELECTOR, ".batch li:nth-child(2)")
    ).perform()
    settle(browser)
    values, _, _ = simulated(spec, "loss", 5, {15: 1})
    assert value(browser, "a") == pytest.approx(values[-1, 0], abs=1e-4)
    slots = browser.find_elements(By.CSS_SELECTOR, ".batch li")
    before = [slot.find_element(By.TAG_NAME, "b").text for slot in slots]
    ActionChains(browser).drag_and_drop(slots[0], slots[1]).perform()
    settle(browser)
    assert [b.text for b in browser.find_elements(By.CSS_SELECTOR, ".batch li b")] == before[::-1]
    assert value(browser, "a") == pytest.approx(values[-1, 0], abs=1e-4)  # a batch has no order


def test_all_is_done_by_keyboard(browser: Chrome, page: Path, spec: dict[str, Any]) -> None:
    open_page(browser, page, "group=g&metric=loss&test=0&run=g-05&step=3")
    scrub = browser.find_element(By.ID, "step")
    scrub.send_keys(Keys.ARROW_RIGHT)
    settle(browser)
    assert "Batch of update 4" in browser.find_element(By.ID, "batch").text
    slot = browser.find_element(By.ID, "slot-1")
    slot.send_keys(Keys.ENTER)
    slot.send_keys(Keys.DELETE)
    settle(browser)
    assert browser.switch_to.active_element == slot
    assert "nothing" in said(browser) and "before" in said(browser)
    style = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"
    find = browser.find_element(By.ID, "find")
    find.send_keys("b_task 2")
    find.send_keys(Keys.TAB, Keys.NULL)
    (example,) = browser.find_elements(By.CSS_SELECTOR, "[data-example]")
    example.send_keys(Keys.ENTER)
    settle(browser)
    values, _, _ = simulated(spec, "loss", 5, {7: 2})
    scrub.send_keys(Keys.END)
    settle(browser)
    assert value(browser, "a") == pytest.approx(values[-1, 0], abs=1e-4)


def test_two_curricula_are_compared_and_the_address_holds_them(
    browser: Chrome, page: Path, spec: dict[str, Any]
) -> None:
    open_page(browser, page, "group=g&metric=loss&test=3&run=g-05&step=8&edits=2.5&b=g-00&bedits=1.x_3.4")
    a, _, _ = simulated(spec, "loss", 5, {2: 5})
    b, _, _ = simulated(spec, "loss", 0, {1: None, 3: 4})
    assert value(browser, "difference") == pytest.approx(a[-1, 3] - b[-1, 3], abs=2e-4)
    browser.find_element(By.XPATH, "//button[text()='Swap A and B']").click()
    settle(browser)
    assert value(browser, "a") == pytest.approx(b[-1, 3], abs=1e-4)
    browser.execute_async_script("setTimeout(arguments[0], 400)")
    address = browser.current_url.partition("#")[2]
    open_page(browser, page, address)
    assert value(browser, "a") == pytest.approx(b[-1, 3], abs=1e-4)
    assert value(browser, "b") == pytest.approx(a[-1, 3], abs=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        "group=nosuch",
        "group=g&run=nosuch",
        "group=g&test=99",
        "group=g&run=g-05&edits=1.99",
        "group=g&step=%3Cscript%3E",
        "group=g&metric=%00&edits=;&b=&until=never",
    ],
)
def test_an_address_that_asks_in_vain_shows_something_and_says_so(browser: Chrome, page: Path, words: str) -> None:
    open_page(browser, page, words)
    assert "does not have" in said(browser)
    assert np.isfinite(value(browser, "a"))


def test_hostile_texts_are_texts(browser: Chrome, page: Path) -> None:
    for test in range(5):
        open_page(browser, page, f"group=g&metric=loss&test={test}&run=g-06")
        found = browser.execute_script(
            "return [...document.querySelectorAll('.test > .whole pre')].map((e) => e.textContent)"
        )
        number = test if test < 3 else test - 3
        assert found == [HOSTILE[number % 4], HOSTILE[(number + 1) % 4]]
        assert browser.title == "What if? GPTfluence"
        assert browser.execute_script("return document.querySelectorAll('#app img, #app script').length") == 0
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [360, 1366])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_phones_and_laptops_and_can_be_read(browser: Chrome, page: Path, width: int, dark: bool) -> None:
    look(browser, width, 740, dark)
    open_page(browser, page, "group=g&metric=loss&test=0&run=g-05&step=4&b=g-06")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script(_CONTRAST) >= 4.5
    assert browser.execute_script(_UNNAMED) == []
    landmarks = browser.execute_script(
        "return ['header', 'main', 'footer'].map((n) => document.querySelectorAll(n).length)"
    )
    assert landmarks == [1, 1, 1]


_CONTRAST = """
const bright = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).map((x) => x / 255)
    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (color !== 'rgba(0, 0, 0, 0)') return color;
  }
  return 'rgb(255, 255, 255)';
};
const shown = [...document.querySelectorAll('#app *')].filter((e) => !e.closest(':disabled, svg, option')
  && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
const least = shown.map((e) => {
  const [x, y] = [bright(getComputedStyle(e).color), bright(behind(e))].sort();
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
});
return Math.min(...least);
"""
"""Least contrast of a text with what is behind it (WCAG 2)."""

_UNNAMED = """
return [...document.querySelectorAll('button, select, input, summary, [tabindex="0"], svg[role=img]')].filter((e) =>
  !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML.slice(0, 80));
"""
"""What can be used, and has no name for a screen reader."""
