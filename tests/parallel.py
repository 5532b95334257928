"""How tests share two processes (`make test` uses pytest-xdist): by folder, so that what a folder shares is made once.

All files that use the session's Ray cluster are one group, so that there is one cluster. The longest groups go first.
pytest-xdist's own groups (`--dist loadgroup`) have no effect with this pytest, whose ids of tests do not change later.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
_LONGEST_FIRST = ("ray", "reference", "faults", "execute", "train")


@cache
def group(path: str) -> str:
    """The group of the tests in the file at `path`, which is relative to the repository's root."""
    file = ROOT / path
    if file.is_file() and "ray_cluster" in file.read_text(encoding="utf-8"):
        return "ray"
    return file.parent.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(group(item.nodeid.partition("::")[0]), len(order)))  # stable


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    config.option.loadscopereorder = False  # as collected: the longest first
    return ByGroup(config, log)
