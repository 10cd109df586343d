"""Runs the code of a document: what its blocks print, one after the other, as a reader would see it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pipeline import ROOT

_BLOCK = re.compile(r"^```(python|bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "==== block"


def blocks(document: Path) -> list[tuple[str, str]]:
    """Return kind (python, bash, or text: what the blocks before it since the last text print) and content."""
    return _BLOCK.findall(document.read_text(encoding="utf-8"))


def run(document: Path, folder: Path) -> list[str]:
    """Run all code of a document in a folder, as one program; return what is printed for each of its texts."""
    script, mark = [], f"print({_MARK!r}, flush=True)\n"
    for kind, code in blocks(document):
        if kind == "python":
            script.append(code)
        elif kind == "bash":
            script.append(f"__import__('subprocess').run(['bash', '-ec', {code!r}], check=True)\n")
        else:
            script.append(mark)
    folder.mkdir(parents=True, exist_ok=True)
    commands = folder.parent / f"{folder.name}.bin"  # the gptfluence of this tree, whichever is installed
    commands.mkdir(exist_ok=True)
    (commands / "gptfluence").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gptfluence "$@"\n')
    (commands / "gptfluence").chmod(0o755)
    environment = os.environ | {
        "REPOSITORY": str(ROOT),
        "PYTHONPATH": str(ROOT / "workflow"),
        "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    ended = subprocess.run([sys.executable, "-c", "".join(script)], cwd=folder, env=environment, text=True,
                           capture_output=True, check=False)  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    return ended.stdout.split(f"{_MARK}\n")[:-1]
