"""When a relative or default storage will not do: in a Ray job, and where tasks may run on another node.

Does not look at what lies on the storage: that all nodes see one folder under its path is the user's to arrange.
"""

import os

from raystudy.artifacts.storage import SHARED
from raystudy.errors import StorageError

_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the entrypoint of a submitted job


class NotSharedError(StorageError):
    """A storage that other nodes, or the next job, would not find."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the storage must be an absolute path that all nodes see, but it is the default or a relative one, and "
            f"{why}. Name {SHARED}: --storage /ABSOLUTE/PATH or --storage s3://BUCKET/PREFIX, or in RAYSTUDY_STORAGE"
        )


def in_ray_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return _JOB_VARIABLE in os.environ
