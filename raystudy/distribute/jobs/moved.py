"""Whether a study that a job has run is that of a file here: the same but for the folder in which its files lie.

A job reads its files from a copy of the working folder on the cluster, whose path then stands in the study's resolved
copy on the storage.
"""

import re
from collections.abc import Collection
from typing import Any

from raystudy.specs.study import StudySpec

# Where Ray unpacks a job's working folder on every node.
_JOBS_FOLDER = re.compile(r".*/runtime_resources/working_dir_files/_ray_pkg_[0-9a-f]+(?=/|$)")


def changed_fields(stored: StudySpec, here: StudySpec, free: Collection[str]) -> list[str]:
    """The fields, but for `free` ones, in which the two differ otherwise than by the folder of their files."""
    folders: set[str] = set()
    changed = []
    for field in type(stored).model_fields:
        if field not in free and getattr(stored, field) != getattr(here, field):
            ours, theirs = (spec.model_dump(mode="json", include={field}) for spec in (here, stored))
            if not _is_alike(theirs, ours, folders) or len(folders) > 1:
                changed.append(field)
    return changed


def _is_alike(theirs: Any, ours: Any, folders: set[str]) -> bool:
    """Whether two values are the same but for the job's folder; what stands for it here is added to `folders`."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(_is_alike(theirs[key], ours[key], folders) for key in theirs)
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(_is_alike, theirs, ours, [folders] * len(ours)))
    if theirs == ours:
        return True
    place = _JOBS_FOLDER.match(theirs) if isinstance(theirs, str) else None
    if place is None or not isinstance(ours, str):
        return False
    below = theirs[place.end() :]
    folders.add(ours.removesuffix(below))
    return ours.endswith(below)
