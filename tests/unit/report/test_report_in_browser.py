"""The report as a reviewer has it: opened in a browser, without a server, a network or anything beside the file."""

from __future__ import annotations

import base64
import csv
import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from opened import Page

WIDTHS = (360, 1280)


def test_it_opens_alone(page: Page, made: Path) -> None:
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    report = (made / "results/report.html").as_uri()
    assert report in asked
    assert {url.partition(":")[0] for url in asked if url != report} <= {"data"}
    assert page.driver.get_log("browser") == []
    assert page.run("return document.scripts.length") == 0
    sizes = page.run(
        "const images = [...document.images]; return Promise.all(images.map(i => i.decode()"
        ".then(() => [i.naturalWidth, i.naturalHeight])))"
    )
    assert len(sizes) == 2 and all(width == 6.75 * 200 and height > 100 for width, height in sizes)


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    levels = page.run("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header", "nav", "main"):
        assert page.run("return document.querySelectorAll('body > ' + arguments[0]).length", landmark) == 1
    ids = page.run("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    links = page.run("return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert {link.removeprefix("#") for link in links} <= set(ids) and links[0] == "#report"
    assert {f"#table_{n}" for n in (1, 2, 3, 4)} | {"#figure_6", "#figure_7", "#findings"} <= set(links)
    assert page.run("return [...document.querySelectorAll('th')].filter(th => !th.scope).length") == 0
    alternatives = page.run("return [...document.images].map(image => image.alt)")
    assert all("panels" in text and "Shown: " in text for text in alternatives)
    assert "GPTfluence (bilinear)" in alternatives[0]
    page.run("document.querySelector('.skip').focus()")
    assert page.run("return document.querySelector('.skip').getBoundingClientRect().left") >= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(page: Page, width: int) -> None:
    page.look(width=width)
    for _ in page.run("return [...document.querySelectorAll('article, section')].map(e => (e.scrollIntoView(), 0))"):
        pass
    assert page.run("return document.scrollingElement.scrollWidth") <= width


CONTRASTS = """
const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const behind = e => { for (; e; e = e.parentElement) {
  const c = numbers(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; }
  return [255, 255, 255]; };
const seen = new Map();
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const e = texts.currentNode.parentElement;
  if (!texts.currentNode.textContent.trim() || e.tagName === 'STYLE') continue;
  const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))];
  seen.set(getComputedStyle(e).color + ' on ' + behind(e), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}
return Object.fromEntries(seen);
"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out(page: Page, dark: bool) -> None:
    page.look(dark=dark)
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) >= 4
    assert {colours: ratio for colours, ratio in contrasts.items() if ratio < 4.5} == {}
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark
    # Figures are drawn for white paper.
    cards = page.run("return [...document.images].map(image => getComputedStyle(image).backgroundColor)")
    assert set(cards) == {"rgb(255, 255, 255)"}


def shown_tables(page: Page, where: str) -> list[dict[str, Any]]:
    """Return heads and rows of the tables below an element, rows with the name of their section first."""
    return page.run(
        """
        return [...document.querySelectorAll(arguments[0] + ' table')].map(table => ({
          heads: [...table.tHead.rows].at(-1).innerText.split('\\t').map(text => text.trim()),
          rows: [...table.tBodies].flatMap(body => [...body.rows].map((row, i) => {
            const texts = [...row.cells].map(cell => cell.textContent.trim());
            const first = body.rows[0].cells[0];
            return first.scope === 'rowgroup' && i ? [first.textContent.trim(), ...texts] : texts;
          })),
        }))
        """,
        where,
    )


def numbers_in(text: str) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", text)


@pytest.mark.parametrize(
    "table", [*(f"table_{n}" for n in (1, 2, 3, 4)), "table_attribution", "table_simulators", "table_choices"]
)
def test_every_cell_holds_what_the_csv_holds(page: Page, made: Path, table: str) -> None:
    """Each printed value stands, with its spread, in one row of the CSV; and the Markdown prints the same cells."""
    with (made / f"results/tables/{table}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    spreads = [("low", "high"), ("std_over_trajectories",), ("std_over_runs",), ()]
    shown = [cell for t in shown_tables(page, f"#{table}") for row in t["rows"] for cell in row[2:]]
    assert len(shown) > 20
    for cell in {cell for cell in shown if cell != "–"}:
        printed = numbers_in(cell.replace("%", ""))
        assert printed, cell
        factor = 100 if cell.endswith("%") else 1
        assert any(
            all(_prints(text, row.get(name), factor) for text, name in zip(printed, ("value", *names), strict=True))
            for names in spreads
            if len(names) == len(printed) - 1
            for row in rows
        ), cell
    lines = (made / f"results/tables/{table}.md").read_text(encoding="utf-8").splitlines()
    cells = [[c.strip().strip("*") for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line[:1] == "|"]
    printed_cells = sorted(cell for row in cells for cell in row[2:] if re.search(r"\d|^–$", cell) and len(row) > 2)
    assert [cell for cell in printed_cells if cell in shown] == sorted(shown)


def _prints(text: str, value: str | None, factor: int) -> bool:
    """Whether a printed number is a value of the CSV, rounded to the printed digits."""
    if not value:
        return False
    mantissa = text.partition("e")[0]
    unit = 10.0 ** -len(mantissa.partition(".")[2]) * (10.0 ** int(text.partition("e")[2] or 0))
    return abs(float(text) - factor * float(value)) <= 0.5001 * unit


def test_what_was_reported_stands_beside_what_was_measured(page: Page, made: Path, root: Path) -> None:
    headings = page.run("return [...document.querySelectorAll('main h2')].map(h => h.textContent)")
    assert headings[0] == "Reported and measured"
    first = shown_tables(page, "#compared")[0]
    assert first["heads"] == ["Measure", "Method", "Pythia-410M", "nano-0.2m", "<b>bold</b> & wide"]
    with (root / "workflow/gptfluence/paper/published.csv").open(newline="") as file:
        published = {
            (row["method"], row["measure"]): row["value"]
            for row in csv.DictReader(file)
            if (row["table"], row["task"], row["metric"]) == ("table_2", "average", "loss")
        }
    names = {"All-steps MSE": "all_steps_mse", "All-steps MAE": "all_steps_mae",
             "Final-step Spearman": "final_step_spearman"}  # fmt: skip
    reported = {(row[1].partition(",")[0].lower(), names[row[0]]): row[2] for row in first["rows"] if row[2] != "–"}
    assert reported == published
    with (made / "results/tables/table_2.csv").open(newline="") as file:
        ours = {
            row["measure"]: row
            for row in csv.DictReader(file)
            if (row["source"], row["model"], row["task"], row["metric"], row["method"])
            == ("ours", "nano-0.2m", "average", "loss", "gptfluence")
        }
    measured = {names[row[0]]: row[3] for row in first["rows"] if row[1].startswith("GPTfluence")}
    for measure, cell in measured.items():
        row = ours[measure]
        assert all(_prints(t, row[n], 1) for t, n in zip(numbers_in(cell), ("value", "low", "high"), strict=True))


def test_names_of_a_user_are_no_markup(page: Page) -> None:
    assert page.run("return document.querySelectorAll('td b, th b, li b, dd b').length") == 0
    assert "<b>bold</b> & wide" in page.run("return document.querySelector('header dl').textContent")


def test_it_prints(page: Page) -> None:
    printed = page.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    # Widths of a sheet between its margins, in CSS pixels: no table is cut.
    for width, which in ((695, ".scroll:not(.wide)"), (1031, ".wide")):
        page.look(width=width, media="print")
        cut = page.run(
            "return [...document.querySelectorAll(arguments[0] + ' table')]"
            ".filter(t => t.getBoundingClientRect().right > innerWidth + 1).map(t => t.caption.textContent)",
            which,
        )
        assert cut == []
    shown = page.run("return ['nav', '.skip'].map(e => getComputedStyle(document.querySelector(e)).display)")
    assert shown == ["none", "none"]


@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(page: Page, width: int) -> None:
    """Rules of axe-core on all but contrast (see above); tables end early, as each row is as the one before it."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None and found.origin is not None
    page.look(width=width)
    page.run(
        "document.querySelectorAll('tbody tr:nth-child(n + 4), tbody:nth-of-type(n + 3)').forEach(r => r.remove())"
    )
    page.run("document.querySelectorAll('th[rowspan]').forEach(h => h.rowSpan = h.closest('tbody').rows.length)")
    page.run((Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    violations = page.driver.execute_async_script(
        "const done = arguments[0], off = {enabled: false};"
        "axe.run(document, {rules: {'color-contrast': off}}).then(r => done(r.violations.map("
        "v => [v.id, v.help, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))])), e => done(String(e)))"
    )
    assert violations == []
