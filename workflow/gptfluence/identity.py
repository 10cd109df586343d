"""What code made a file: a digest of the syntax trees of the modules that a command imports.

Comments, layout and docstrings do not count, so only a real change of the code renames (and recomputes) what it made.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent

# The modules whose code decides what a shard of dynamics holds: planned with them, checked by the job that trains.
DYNAMICS_CODE = ("dynamics.train", "curricula.draw")

# How files are written, errors are said and runs are continued changes no value: an edit there must not train anew.
PLUMBING = ("io", "errors", "identity", "dynamics.checkpoints")


@functools.cache
def code_digest(*entries: str) -> str:
    """Return 12 hexadecimal digits for the code reachable from the modules `entries`.

    Args:
        entries: dotted names below the package, e.g. ``dynamics.train``.
    """
    parts = [f"{name}:{value}" for name, value in module_digests(*entries).items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def read_code_anew() -> None:
    """Forget what the modules held, for whoever edits them while a process runs."""
    for cached in (code_digest, _parsed, _imports, _module_digest):
        cached.cache_clear()


def module_digests(*entries: str) -> dict[str, str]:
    """Return the digest of each module that counts, by name, so that a change can be told by its module."""
    names = sorted(reachable_modules(*entries) - set(PLUMBING))
    return {name: _module_digest(name) for name in names}


def reachable_modules(*entries: str) -> set[str]:
    """Return the names of the package's modules that `entries` import, themselves included, lazy imports too."""
    seen: set[str] = set()
    queue = list(entries)
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        queue.extend(_imports(name))
    return seen


def _path(name: str) -> Path | None:
    path = PACKAGE.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _parsed(name: str) -> ast.Module:
    path = _path(name)
    if path is None:
        raise ValueError(f"no module gptfluence.{name}")
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(name: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(_parsed(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gptfluence"):
            base = node.module.removeprefix("gptfluence").lstrip(".")
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found.update(n if _path(n) else base for n in names)
        elif isinstance(node, ast.Import):
            found.update(a.name.removeprefix("gptfluence.") for a in node.names if a.name.startswith("gptfluence."))
    return {n for n in found if n and _path(n)}


@functools.cache
def _module_digest(name: str) -> str:
    return hashlib.sha256(json.dumps(_canonical(_parsed(name))).encode()).hexdigest()[:12]


def _canonical(node: Any) -> Any:
    """Return a syntax tree as JSON-able values that are the same in every version of Python.

    `ast.dump` and `ast.unparse` are not: their form, and empty fields of the nodes, come and go.
    """
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)  # an identifier or a constant
    fields = []
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(value, list):
            # Bare strings are docstrings or attribute notes: they say, but do not do.
            value = [s for s in value if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        if value is not None and value != [] and field not in ("ctx", "kind", "type_comment"):
            fields.append([field, _canonical(value)])
    return [type(node).__name__, *fields]
