"""What code made a file: a digest of the syntax trees of the modules that a command imports.

Comments, layout and docstrings do not count, so only a real change of the code renames (and recomputes) what it made.

To parse the package takes a second, and every call of Snakemake and each stage of DVC asks: what is found in a module
is kept in the user's cache folder, under the digest of the module's text.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptfluence.errors import UserError
from gptfluence.io import write_json

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
    for cached in (code_digest, _facts, _imports):
        cached.cache_clear()


def module_digests(*entries: str) -> dict[str, str]:
    """Return the digest of each module that counts, by name, so that a change can be told by its module."""
    names = sorted(reachable_modules(*entries) - set(PLUMBING))
    return {name: _facts(name).digest for name in names}


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


@dataclass(frozen=True)
class _Facts:
    """What a module's text says.

    Attributes:
        imports: names that it imports from the package, each with the module that it stands in if it is none itself.
        digest: 12 hexadecimal digits for its code.
    """

    imports: tuple[tuple[str, str], ...]
    digest: str


@functools.cache
def _facts(name: str) -> _Facts:
    path = _path(name)
    if path is None:
        raise ValueError(f"no module gptfluence.{name}")
    text = path.read_bytes()
    kept = _cache_folder() / f"{hashlib.sha256(_own_text() + text).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        return _Facts(tuple((module, base) for module, base in known["imports"]), str(known["digest"]))
    module = ast.parse(text)
    facts = _Facts(_read_imports(module), hashlib.sha256(json.dumps(_canonical(module)).encode()).hexdigest()[:12])
    with contextlib.suppress(UserError):  # no room, or no right to write: it is parsed again
        write_json(kept, {"imports": facts.imports, "digest": facts.digest})
    return facts


@functools.cache
def _own_text() -> bytes:
    """How modules are read: what was read otherwise does not count."""
    return Path(__file__).read_bytes()


def _cache_folder() -> Path:
    """The user's; where there is none, one that can neither be read nor written."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return (path if path.is_absolute() else Path(os.devnull)) / "gptfluence" / "modules"


@functools.cache
def _imports(name: str) -> set[str]:
    return {found for module, base in _facts(name).imports if (found := module if _path(module) else base)}


def _read_imports(tree: ast.Module) -> tuple[tuple[str, str], ...]:
    found: dict[tuple[str, str], None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gptfluence"):
            base = node.module.removeprefix("gptfluence").lstrip(".")
            found |= {(f"{base}.{alias.name}".lstrip("."), base): None for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [a.name.removeprefix("gptfluence.") for a in node.names if a.name.startswith("gptfluence.")]
            found |= {(name, ""): None for name in names}
    return tuple(found)


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
