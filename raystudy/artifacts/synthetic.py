"""Shards without text: the only reader and writer of a synthetic recipe or validation set on storage.

`root/shards/<digest>/manifest.json` holds the data's spec; the digest is that of the spec, so that it checks itself.
"""

import json

from pydantic import ValidationError

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.node_cache import on_this_node, write_sealed
from raystudy.artifacts.sealed import damaged, open_sealed
from raystudy.artifacts.shards import shard_folder
from raystudy.specs.base import canonical_json, digest
from raystudy.specs.synthetic import SyntheticData


def write_synthetic(root: StoragePath, data: SyntheticData) -> str:
    """Write the data's spec, unless it is there, and return its digest."""
    name = digest(data)
    write_sealed(shard_folder(root, name), {}, {"kind": "synthetic", "data": json.loads(canonical_json(data))})
    return name


def open_synthetic(root: StoragePath, name: str) -> SyntheticData:
    """The data called `name`.

    Raises:
        DataError: it is missing, or is not what was written.
    """
    folder = shard_folder(root, name)
    manifest = open_sealed(on_this_node(folder))
    if manifest.get("kind") != "synthetic":
        raise damaged(folder, f"it holds {manifest.get('kind')!r} instead of 'synthetic'")
    try:
        data = SyntheticData.model_validate_json(json.dumps(manifest.get("data")))
    except ValidationError as error:
        raise damaged(folder, "its manifest holds no synthetic data") from error
    if digest(data) != name:
        raise damaged(folder, "its manifest holds other data")
    return data
