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
from gptfluence.page.groups import DETAILS, label_of, pack_group, read_group
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
    app, style, template = (_read(name) for name in ("app.js", "app.css", "page.html"))
    index = {
        "scale": spec["scale"],
        "levels": list(LEVELS),
        "groups": [{"name": own["group"], "label": label_of(own)} for own in spec["groups"]],
        "notes": [] if groups else ["The plan has no simulator of kind gradient_response: there is nothing to show."],
    }
    for detail in DETAILS:
        blocks = [base64.b64encode(pack_group(group, detail)).decode() for group in groups]
        if sum(map(len, blocks)) + len(app) + len(style) <= LIMIT:
            break
    log.info("%s tests a task at most, %s unseen pools of mixtures", detail.tests, "with" if detail.unseen else "without")
    data = [f'<script type="application/json" id="index">{_escaped(index)}</script>']
    data += [f'<script type="text/plain" id="group-{i}">{block}</script>' for i, block in enumerate(blocks)]
    parts = {
        "csp": f"default-src 'none'; script-src {_source(app)}; style-src {_source(style)}; base-uri 'none'; "
        "form-action 'none'",
        "style": style,
        "data": "\n".join(data),
        "app": app,
    }
    write_text(output, re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return what lets a browser run exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _escaped(value: Any) -> str:
    """Return JSON that ends no element."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
