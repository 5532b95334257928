"""Damage to the token shards of one recipe."""

import json
from pathlib import Path

from raystudy.artifacts.storage import Storage


def flip_a_byte(root: Path, recipe: str) -> str:
    """Change a byte of the recipe's first token shard; returns its digest."""
    studies = [Storage(root).study(path.name) for path in (root / "studies").iterdir()]
    view = studies[0].read_study()[1]["shards"][recipe]
    manifest = json.loads((root / "shards" / view / "manifest.json").read_text())
    digest = str(manifest["sources"][0]["parts"][0]["shard"])
    tokens = root / "shards" / digest / "tokens.bin"
    tokens.chmod(0o644)
    content = bytearray(tokens.read_bytes())
    content[len(content) // 2] ^= 1
    tokens.write_bytes(content)
    return digest
