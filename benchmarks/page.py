"""The what-if page in Chromium: how large it is, how soon it can be used, how soon an edit is seen.

Prints one JSON object a line. `--page FILE` measures a page that the pipeline made (results/whatif.html); without it
one is made up: 200 training and 200 test examples, 300 updates of 8, 16 runs.

size: bytes.
load: milliseconds from the call until the first group can be used, median of five.
group_NAME: milliseconds until another group can be used, by the list of groups.
edit, scrub, test: milliseconds from an input to the end of the script that it starts, with all that is computed and the
document changed (`script`), and to the next frame that a browser without a window paints (`frame`): median and largest
of 20; and CPU milliseconds of the page's thread, all included (`cpu`): on a machine that does other things they are
what can be compared. edit: an example is put into a slot; scrub: one update on; test: another test example.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
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

_MEASURE = """
const [act, done] = arguments;
const began = performance.now();
new Function(act)();
const channel = new MessageChannel();  // Preact renders in a microtask or a task; then this one
setTimeout(() => { const script = performance.now() - began;
  requestAnimationFrame(() => { channel.port1.onmessage = () => done([script, performance.now() - began]);
    channel.port2.postMessage(0); }); }, 0);
"""

_ACTS = {
    "edit": "const all = document.querySelectorAll('[data-example]'); all[{i} % all.length].click();",
    "scrub": "const e = document.getElementById('step'); e.value = (+e.value + 1) % (+e.max); "
    "e.dispatchEvent(new Event('input', {{bubbles: true}}));",
    "test": "const e = document.getElementById('test'); e.selectedIndex = {i} % e.options.length; "
    "e.dispatchEvent(new Event('change', {{bubbles: true}}));",
}


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


def measure(browser: Chrome, act: str) -> dict[str, float]:
    found = []
    for i in range(22):
        before = _cpu(browser)
        times = browser.execute_async_script(_MEASURE, act.format(i=i + 1))
        found.append((*times, _cpu(browser) - before))
    script, frame, cpu = zip(*found[2:], strict=True)
    columns = {"script": script, "frame": frame, "cpu": cpu}
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
        for name, act in _ACTS.items():
            say(name, **measure(browser, act))
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
