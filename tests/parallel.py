"""How tests share two processes (`make test` uses pytest-xdist): by folder, so that what a folder shares is made once.

All that use the session's Ray cluster are one group, so that there is one cluster. The longest groups go first.
"""

import pytest

_LONGEST_FIRST = ("ray", "reference", "faults", "execute", "train")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    order = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(_group(item), len(order)))  # stable: within a group as collected


def _group(item: pytest.Item) -> str:
    if "ray_cluster" in getattr(item, "fixturenames", ()):
        return "ray"
    return item.path.parent.name
