"""raystudy: which data recipe is best when each is tuned, and which cheap protocol can tell.

The public names are loaded on first use, so that `import raystudy` costs nothing and needs
neither torch nor ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "run": "raystudy.distribute.launch",
    "load": "raystudy.study.results",
    "StudyResults": "raystudy.study.results",
    "RaystudyError": "raystudy.errors",
}

if TYPE_CHECKING:
    from raystudy.distribute.launch import run as run
    from raystudy.errors import RaystudyError as RaystudyError
    from raystudy.study.results import StudyResults as StudyResults
    from raystudy.study.results import load as load

__all__ = ["RaystudyError", "StudyResults", "__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'raystudy' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
