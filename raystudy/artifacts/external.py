"""Data that lie elsewhere: the only reader and writer of what stands for them on storage.

`root/shards/<digest>/manifest.json` holds their identity, whose digest is the folder's name, and beside it the path
they were first seen under, which tells two data of one version apart for people.
"""

import json

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.sealed import open_sealed, write_sealed
from raystudy.artifacts.shards import shard_folder
from raystudy.specs.base import canonical_json, digest
from raystudy.specs.external import ExternalData


def write_external(root: StoragePath, data: ExternalData, path: str) -> str:
    """Write what stands for `data`, unless it is there, and return the path they were first seen under."""
    folder = shard_folder(root, digest(data))
    write_sealed(folder, {}, {"kind": "external", "data": json.loads(canonical_json(data)), "path": path})
    return str(open_sealed(folder).get("path", path))
