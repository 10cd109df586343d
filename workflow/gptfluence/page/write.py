"""The what-if page: one HTML file without server or network, in which curricula are edited and simulated."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from importlib import resources
from pathlib import Path
from typing import Any

from gptfluence.io import read_parquet, write_text
from gptfluence.page.blocks import to_text
from gptfluence.page.groups import DETAILS, Group, label_of, pack_group, read_group
from gptfluence.words import LEVELS

LIMIT = 2_900_000
"""Bytes that the page has at most, where leaving out tests can bring it there."""

log = logging.getLogger("gptfluence")


def write_page(spec: dict[str, Any], output: Path) -> None:
    """Write the page.

    Args:
        spec: groups, a list of {group, scenario, model, format, method, train_tasks, train_size, pool, task_files
            {task: path}, metrics [{metric, simulator (path), and as for `fit_simulator` test_tasks, test_sizes,
            runs}]}; scores (path); scale.
        output: the HTML file.

    Raises:
        UserError: a file is missing, damaged or of another plan.
    """
    scores = read_parquet(spec["scores"]).to_pylist()
    groups = []
    for own in spec["groups"]:
        log.info("%s", own["group"])
        groups.append(read_group(own, scores))
    write_text(output, render_page(groups, spec["scale"]))


def render_page(groups: list[Group], scale: str) -> str:
    """Return the page of some groups, with as much of each as keeps it below `LIMIT`."""
    app, style, template = (_read(name) for name in ("app.js", "app.css", "page.html"))
    index = {
        "scale": scale,
        "levels": list(LEVELS),
        "groups": [{"name": group.spec["group"], "label": label_of(group.spec)} for group in groups],
        "notes": [] if groups else ["The plan has no simulator of kind gradient_response: there is nothing to show."],
    }
    data = [f'<script type="application/json" id="index">{_escaped(index)}</script>']
    blocks = _pack_groups(groups, LIMIT - len(app) - len(style))
    data += [f'<script type="text/plain" id="group-{i}">{block}</script>' for i, block in enumerate(blocks)]
    parts = {
        "csp": f"default-src 'none'; script-src {_source(app)}; style-src {_source(style)}; base-uri 'none'; "
        "form-action 'none'",
        "style": style,
        "data": "\n".join(data),
        "app": app,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def _pack_groups(groups: list[Group], limit: int) -> list[str]:
    """Return the groups' blocks as texts: all of each, or of the largest ones less, until they have so many bytes."""

    def block(number: int) -> str:
        return to_text(pack_group(groups[number], DETAILS[levels[number]]))

    levels = [0] * len(groups)
    blocks = [block(number) for number in range(len(groups))]
    while sum(map(len, blocks)) > limit:
        left = [number for number, level in enumerate(levels) if level + 1 < len(DETAILS)]
        if not left:
            break
        largest = max(left, key=lambda number: len(blocks[number]))
        levels[largest] += 1
        blocks[largest] = block(largest)
    for group, level, text in zip(groups, levels, blocks, strict=True):
        log.info("%s: %s, %.0f kB", group.spec["group"], DETAILS[level], len(text) / 1e3)
    return blocks


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return what lets a browser run exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _escaped(value: Any) -> str:
    """Return JSON that ends no element."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
