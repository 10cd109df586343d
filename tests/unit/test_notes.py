from __future__ import annotations

import pytest
from gptfluence import notes
from gptfluence.notes import Notes


def test_something_is_said_every_ten_seconds_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(notes.time, "monotonic", lambda: now[0])
    told = Notes()
    said = []
    for second in range(1, 36):
        now[0] = 100.0 + second
        said += [second] * told.due()
    assert said == [11, 22, 33]
    assert told.passed() == 35
    assert told.left(7, 10) == pytest.approx(15)
