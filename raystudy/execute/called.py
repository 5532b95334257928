"""A Python callable as a trainer, in a process of its own: `-m raystudy.execute.called package.module:function SPEC`.

The function is given a Job. What it returns, a result as docs/your-own-trainer.md shows, is written for it; `format`
and `run_id` may be left out. If it returns None it has written `result.json` itself.
"""

import importlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One run: `spec` is what spec.json holds; the rest is taken from it. Paths are absolute.

    `data`: the folder of the shards, or the path of an external recipe. `out`: the same folder at every attempt.
    """

    spec: dict[str, Any]
    lr: float
    seed: int
    steps: int
    data: str
    out: Path


def main(target: str, spec_path: str) -> None:
    """Call the function and write what it returns; whatever it raises ends the process with its traceback."""
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    settings = spec["settings"]
    job = Job(spec, settings["lr"], spec["seed"], settings["steps"], spec["data"]["path"], Path(spec["out"]))
    module, _, name = target.partition(":")
    result = getattr(importlib.import_module(module), name)(job)
    if result is None:
        return
    value = {"format": "raystudy-result/1", "run_id": spec["run_id"], **result}
    path = Path(spec["result"])
    writing = path.with_name(f"{path.name}.writing")
    writing.write_text(json.dumps(value), encoding="utf-8")
    os.replace(writing, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
