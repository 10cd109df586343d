"""The what-if page in Chromium: how large it is, how soon it can be used, how soon an input is answered.

Prints one JSON object a line. `--page FILE` measures a page that the pipeline made (results/whatif.html); without it
one is made up: 200 training and 200 test examples, 300 updates of 8, 16 runs.

size: bytes.
load: milliseconds from the call until the first group can be used, median of five.
group_NAME: milliseconds until another group can be used, by the list of groups.
All others: clicks and keys as a user's, median and largest (`_most`) of 20. `frame`: milliseconds from the input to the
first painted frame after it, which has the new curves; lists of examples follow with the next. `browser`: the same as
the browser itself tells it, in steps of 8 (Event Timing, what "interaction to next paint" is made of). `cpu`: CPU
milliseconds of the page's thread until all has come to rest: on a machine that does other things they are what can be
compared. first: an example is put into a slot, half a second after the page can be used, of ten openings; edit: later;
out: an example is taken out of all updates; run: the curriculum becomes another run's; compare: a second curriculum;
scrub: one update on; test: another test example; find: a digit to look for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import complaints, open_browser, open_page
from gptfluence.page.groups import Group, Part
from gptfluence.page.write import render_page
from gptfluence.simulators.data import GroupData
from gptfluence.simulators.gradient_response import GradientResponse
from selenium.webdriver import Chrome
from synthetic import planted

RUNS, STEPS, BATCH, TRAIN, TESTS = 16, 300, 8, 200, 200

_WATCH = """
window.painted = []; window.told = [];
for (const type of ["click", "input", "change"]) addEventListener(type, (event) => {
  const { tagName } = event.target;
  if (!event.isTrusted || type !== (tagName === "SELECT" ? "change" : tagName === "INPUT" ? "input" : "click")) return;
  requestAnimationFrame(() => { const channel = new MessageChannel();
    channel.port1.onmessage = () => painted.push(performance.now() - event.timeStamp); channel.port2.postMessage(0); });
}, true);
new PerformanceObserver((list) => { for (const entry of list.getEntries()) if (entry.interactionId)
  told.push(entry.duration); }).observe({ type: "event", durationThreshold: 16 });
"""

# Where the input goes, and a key; without one it is a click.
_ACTS = {
    "edit": (".palette li:nth-child({turn}) button", ""),
    "out": (".ranking .out", ""),
    "run": ("#run", "{way}"),
    "compare": ("#b", "{way}"),
    "scrub": ("#step", "ArrowRight"),
    "test": ("#test", "{way}"),
    "find": ("#find", "{digit}"),
}
_CODES = {"ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def make_page() -> str:
    """Return a page of one made-up group."""
    dynamics, curricula, features = planted(RUNS, STEPS, BATCH, TRAIN, TESTS)
    features.test_task[:] = 0
    momenta, decays = (0.0, 0.9), (1.0, 0.95, 0.9, 0.8, 0.6, 0.3)
    simulator = GradientResponse(("sgd", "adamw"), momenta, decays, (1e-5, 1e-3, 0.1, 10.0))
    simulator.fit(dynamics, curricula, features)
    runs = tuple(f"run {number}" for number in range(RUNS))
    splits = ["validate" if validate else "fit" for validate in dynamics.validate]
    spec: dict[str, Any] = {
        **{"group": "made-up", "scenario": "fine_tuning", "model": "none", "format": "plain", "pool": TRAIN},
        **{"train_tasks": ["task"], "train_size": TRAIN},
        "metrics": [{"runs": [{"run_id": run, "split": part} for run, part in zip(runs, splits, strict=True)]}],
    }
    rng = np.random.default_rng(0)
    texts = {
        ("task", part): [
            {"prompt": " ".join(map(str, rng.integers(0, 999, 40))), "target": "yes"} for _ in range(count)
        ]
        for part, count in (("train", TRAIN), ("test", TESTS))
    }
    data = GroupData(runs, dynamics, curricula, features, ("task",), (TESTS,))
    return render_page([Group(spec, [Part("loss", data, simulator)], texts, [])], "made-up")


def say(name: str, **numbers: float) -> None:
    print(json.dumps({"benchmark": name} | {key: round(number, 1) for key, number in numbers.items()}), flush=True)


def _opened(browser: Chrome, path: Path) -> Chrome:
    open_page(browser, path)
    browser.execute_script(_WATCH)
    time.sleep(0.5)  # what a user needs at least to find what to click on
    return browser


def _measure(browser: Chrome, act: str, number: int) -> tuple[float, float, float]:
    """Return an input's frame, browser and CPU milliseconds."""
    turns = {"turn": number % 7 + 1, "digit": number % 3, "way": "ArrowUp" if number % 2 else "ArrowDown"}
    selector, key = (text.format(**turns) for text in _ACTS[act])
    x, y = browser.execute_script(
        "painted.length = told.length = 0; const element = document.querySelector(arguments[0]);"
        "element.scrollIntoView({ block: 'center' }); if (arguments[1]) element.focus();"
        "const box = element.getBoundingClientRect(); return [box.left + box.width / 3, box.top + box.height / 2];",
        selector,
        key,
    )
    time.sleep(0.1)
    before = _cpu(browser)
    if key:
        _press(browser, key)
    else:
        _click(browser, x, y)
    time.sleep(0.1)
    cpu = _cpu(browser) - before
    frames, told = browser.execute_script("return [painted, told]")
    if len(frames) != 1:
        raise SystemExit(f"{act}: {len(frames)} inputs arrived, 1 was made")
    return frames[0], max(told, default=0.0), cpu


def _press(browser: Chrome, key: str) -> None:
    code = {"key": key, "code": key, "windowsVirtualKeyCode": _CODES.get(key, ord(key[-1]))}
    text = {"text": key} if len(key) == 1 else {}
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown"} | code | text)
    time.sleep(0.08)  # nobody is quicker
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp"} | code)


def _click(browser: Chrome, x: float, y: float) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.08)


def _summary(found: list[tuple[float, float, float]]) -> dict[str, float]:
    columns = dict(zip(("frame", "browser", "cpu"), zip(*found, strict=True), strict=True))
    medians = {name: statistics.median(values) for name, values in columns.items()}
    return medians | {f"{name}_most": max(values) for name, values in columns.items()}


def _cpu(browser: Chrome) -> float:
    """Return the CPU milliseconds that the page's thread has spent on tasks."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(1e3 * metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path)
    path = parser.parse_args().page
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        if path is None:
            path = Path(folder) / "whatif.html"
            path.write_text(make_page(), encoding="utf-8")
        say("size", bytes=path.stat().st_size)
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        loads = []
        for _ in range(5):
            open_page(browser, path)
            loads.append(browser.execute_script("return performance.getEntriesByName('usable')[0].startTime"))
        say("load", ms=statistics.median(loads), most=max(loads))
        say("first", **_summary([_measure(_opened(browser, path), "edit", number) for number in range(10)]))
        for name in _ACTS:
            say(name, **_summary([_measure(browser, name, number) for number in range(20)]))
        for number in range(1, len(browser.find_elements("css selector", "#group option"))):
            took = browser.execute_async_script(
                "const [number, done] = arguments; const e = document.getElementById('group'); "
                "const began = performance.now(); e.value = number; "
                "e.dispatchEvent(new Event('change', {bubbles: true})); "
                "const look = () => document.getElementById('group')?.value == number && "
                "document.getElementById('app').dataset.group == number ? done(performance.now() - began) "
                ": setTimeout(look, 1); look();",
                number,
            )
            say(f"group_{number}", ms=took)
        for complaint in complaints(browser):
            print(json.dumps(complaint))


if __name__ == "__main__":
    main()
