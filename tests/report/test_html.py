from __future__ import annotations

import base64
import html as html_parser
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from delf_tf.report import html, tables


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.open_tags, self.scripts = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.scripts += tag == "script" or any(name.startswith("on") for name in attributes)
        if tag == "img":
            self.images.append(attributes)
        elif tag not in ("meta", "link", "br"):
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag


def _write(tmp_path, **options):
    path = html.write_report(tmp_path / "report.html", title="Report", **options)
    return path.read_text(encoding="utf-8")


def _picture(name, verdict=""):
    image = html.thumbnail(np.full((300, 200, 3), 90, np.uint8))
    return html.Picture(image, name, f"about {name}", verdict)


def test_thumbnail_is_a_small_jpeg():
    uri = _picture("a").image
    header, content = uri.split(",", 1)
    assert header == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (117, 176)


def test_a_whole_page_is_well_formed_and_self_contained(tmp_path):
    section = html.QuerySection(
        "q1",
        _picture("q").image,
        "the query",
        [html.RankedRow("single-stage", [_picture("a", "good"), _picture("b", "bad")])],
        [_picture("match")],
    )
    text = _write(
        tmp_path,
        summary=["One."],
        tables=[tables.Table("Scores", ["", "mAP"], [["single-stage", "0.500"]])],
        notes=["A note."],
        plots=[_picture("plot")],
        queries=[section],
        has_labels=True,
    )
    page = _Page(text)
    assert page.open_tags == []
    assert len(page.images) == 5
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.images)
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text)
    assert '<figure class="good">' in text
    assert "Green frame" in text


def test_strings_are_escaped(tmp_path):
    evil = "<script>alert(1)</script>\" onerror='x'"
    section = html.QuerySection(evil, _picture("q").image, evil, [html.RankedRow(evil, [])])
    text = _write(tmp_path, summary=[evil], queries=[section])
    page = _Page(text)
    assert page.scripts == 0
    assert evil not in text
    assert evil in html_parser.unescape(text)


def test_an_empty_report(tmp_path):
    text = _write(tmp_path)
    assert _Page(text).images == []
    assert "<table" not in text


def test_table_as_text():
    table = tables.Table("Scores", ["", "mAP"], [["single-stage", "0.5"], ["two", "12.25"]])
    assert table.to_text().splitlines() == [
        "                mAP",
        "-------------------",
        "single-stage    0.5",
        "two           12.25",
    ]
