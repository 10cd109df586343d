"""Tables as pages."""

from gptfluence.paper.tables.renderings import render_html


def test_html_holds_the_same_cells_as_the_markdown() -> None:
    page = render_html("# Title\n\n| a | b |\n| --- | ---: |\n| *x* | **1.5 (0.2)** |\n")
    assert "<td><em>x</em></td>" in page and "<strong>1.5 (0.2)</strong>" in page and page.startswith("<!DOCTYPE html>")
