"""A matplotlib figure -> SVG text that stands inside an HTML page. Knows nothing about what is drawn.

Text stays text, so it can be selected, and the reader's fonts serve any script. The same figure gives the
same bytes; ids carry the figure's name, so that many figures fit one page.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
# The writer has no other place for these; restored before `inline_svg` returns.
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raystudy",
    "svg.id": None,
    "savefig.bbox": None,
    "savefig.facecolor": "auto",
    "text.usetex": False,
}


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """`<svg role="img" aria-label=ALT>` without namespaces, metadata or style sheet; ids start with `name`."""
    written = io.StringIO()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # The reader's browser chooses the font, so a glyph that matplotlib's own font lacks is no loss.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(written.getvalue())
    _drop(root, {"metadata", "style"})
    ids = {
        element.get("id", ""): f"{name}-{place}" for place, element in enumerate(root.iter()) if "id" in element.attrib
    }
    for element in root.iter():
        _make_plain(element, ids)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    # What the dropped style sheet said of every element.
    root.set("style", "stroke-linejoin:round;stroke-linecap:butt")
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _drop(parent: ElementTree.Element, tags: set[str]) -> None:
    for child in list(parent):
        if _local(child.tag) in tags:
            parent.remove(child)
        else:
            _drop(child, tags)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _make_plain(element: ElementTree.Element, ids: dict[str, str]) -> None:
    """HTML's parser knows SVG without namespaces; every reference follows its renamed id."""
    element.tag = _local(element.tag)
    attributes = {_local(key): value for key, value in element.attrib.items()}
    element.attrib.clear()
    for key, value in attributes.items():
        if key == "id":
            element.set(key, ids[value])
        elif key == "href":
            element.set(key, "#" + ids.get(value.removeprefix("#"), value))
        else:
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{ids.get(found[1], found[1])})", value))
