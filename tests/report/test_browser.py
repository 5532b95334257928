"""The page in a real browser: fits phone and desk, asks nothing of the network, runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raystudy.report.page import render_page
from tests.report.example_comparison import make_null_comparison

pytestmark = pytest.mark.browser

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> $x$ 数据配方 وصفة"

# Contrast of text with the nearest background behind it, for every element that holds text of its own.
LOWEST_CONTRAST = """() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = s => s.match(/[\\d.]+/g).map(Number);
  let lowest = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest('svg') ? style.fill : style.color);
    let paper = [255, 255, 255];
    for (let up = element; up; up = up.parentElement) {
      const found = parse(getComputedStyle(up).backgroundColor);
      if (found.length === 3 || found[3] > 0) { paper = found; break; }
    }
    const pair = [light(ink), light(paper)].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < lowest[0]) lowest = [contrast, element.outerHTML.slice(0, 200)];
  }
  return lowest;
}"""


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_is_quiet_and_readable(
    comparison: dict[str, Any], provenance: dict[str, Any], open_page: Callable[..., Any], width: int, scheme: str
) -> None:
    opened = open_page(render_page(comparison, provenance), width, scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert opened.messages == []
    assert all(url.startswith(("file:", "data:")) for url in opened.requests)
    assert opened.overflow() <= 0
    contrast, element = opened.page.evaluate(LOWEST_CONTRAST)
    assert contrast >= 4.5, element


@pytest.mark.parametrize("width", [390, 1200])
def test_one_version_of_each_figure_is_shown(
    comparison: dict[str, Any], open_page: Callable[..., Any], width: int
) -> None:
    page = open_page(render_page(comparison, {}), width).page
    shown = page.evaluate("[...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).length")
    assert shown == 4
    clipped = page.evaluate(
        """() => [...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).flatMap(svg => {
             const frame = svg.getBoundingClientRect();
             return [...svg.querySelectorAll('text')].filter(text => {
               const box = text.getBoundingClientRect();
               return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
                 box.bottom > frame.bottom + 1;
             }).map(text => text.textContent);
           })"""
    )
    assert clipped == []


@pytest.mark.parametrize("width", [390, 1200])
def test_a_hostile_name_is_text(comparison: dict[str, Any], open_page: Callable[..., Any], width: int) -> None:
    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [renamed(item) for item in value]
        return HOSTILE if value in ("mix-even", "reduced", "demo", "dedup-loose") else value

    hostile = renamed(comparison)
    hostile["verdict"]["sentence"] = HOSTILE + "x" * 300
    hostile["conventions"][HOSTILE] = HOSTILE
    provenance = {"study_file": f"</pre>{HOSTILE}", "storage": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    opened = open_page(render_page(hostile, provenance), width)
    opened.page.wait_for_timeout(100)
    assert opened.messages == []
    assert opened.page.evaluate("document.querySelectorAll('script, img').length") == 0
    assert opened.page.evaluate("document.querySelector('h1').textContent.trim()") == HOSTILE
    assert opened.page.evaluate("document.querySelector('pre').textContent").startswith("</pre><script>")
    assert opened.page.evaluate(
        "name => [...document.querySelectorAll('#recipe-list th bdi')].some(cell => cell.textContent === name)", HOSTILE
    )
    assert opened.overflow() <= 0


def test_a_page_of_nulls_fits_a_phone(open_page: Callable[..., Any]) -> None:
    opened = open_page(render_page(make_null_comparison(), {}), 390)
    assert opened.messages == []
    assert opened.overflow() <= 0
