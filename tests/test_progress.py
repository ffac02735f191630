from __future__ import annotations

import logging

from delf_tf import progress


def test_line_tells_done_rate_and_failures(monkeypatch):
    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    counter = progress.Progress(10, "images", "extract", done=2)
    counter.update(4, failed=1)
    assert counter.line() == "extract: 6/10 images, 1.00 images/s, 4 s left, 1 failed"


def test_nothing_done_yet_and_nothing_to_do():
    assert "unknown time left" in progress.Progress(3, "images", "extract").line()
    with progress.Progress(0, "images", "extract") as counter:
        pass
    assert "0/0 images" in counter.line()


def test_what_an_earlier_run_did_has_no_rate():
    counter = progress.Progress(10, "images", "extract", done=10)
    assert counter.line() == "extract: 10/10 images, 0 failed"


def test_hidden_progress_says_nothing(monkeypatch, caplog):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "tqdm", None)
    with caplog.at_level(logging.INFO, logger="absl"), progress.hidden():
        assert list(progress.track("ab", 2, "images", "extract")) == ["a", "b"]
    assert not caplog.records


def test_one_line_a_minute_without_a_terminal(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, logger="absl"):
        for _ in progress.track(range(200), 200, "images", "extract"):
            now[0] += 1.0
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert lines[0].startswith("extract: 60/200 images, 1.00 images/s, 140 s left")
    assert lines[-1].startswith("extract: 200/200")


def test_a_notebook_has_a_bar(monkeypatch):
    drawn = []

    class Bar:
        def __init__(self, **options):
            drawn.append(options["total"])

        def update(self, num):
            drawn.append(num)

        def close(self):
            drawn.append("closed")

    monkeypatch.setattr(Bar, "__module__", "tqdm.notebook")
    monkeypatch.setattr(progress, "tqdm", Bar)
    list(progress.track("ab", 2, "images", "extract"))
    assert drawn == [2, 1, 1, "closed"]
