"""Lock a study before it runs: its primary metric, truth, candidates, contrast and success are written down."""

import argparse
from pathlib import Path

from raystudy.artifacts.storage import locate_storage
from raystudy.artifacts.study_lock import lock_path, read_lock, write_lock
from raystudy.cli.options import add_storage, add_study
from raystudy.errors import SpecError
from raystudy.specs.load import load_study
from raystudy.study.preregistration import differences, registered_content


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser)
    add_storage(parser)


def call(options: argparse.Namespace) -> int:
    """Lock, or say that the study is locked already.

    Raises:
        SpecError: it is locked with other content.
    """
    loaded = load_study(Path(options.study), options.overrides)
    storage = locate_storage(options.storage, loaded)
    storage.prepare()
    folder, name = storage.study(loaded.spec.name).path, loaded.spec.name
    content = registered_content(loaded.spec)
    started = storage.runs.started()
    if write_lock(folder, content, started):
        others = f"; {len(started)} runs on this storage were started before" if started else ""
        print(f"{name}: locked in {lock_path(folder)}{others}")
        return 0
    lock = read_lock(folder)
    assert lock is not None  # a lock is never removed, and the write said that there is one
    changed = differences(lock.registered, content)
    if changed:
        raise SpecError(
            f"a study is locked once, but {name!r} was locked at {lock.locked_at.isoformat()} with other content: "
            f"{', '.join(changed)}. Undo the change, or give the changed study a new name"
        )
    print(f"{name}: is locked already, with the same content, since {lock.locked_at.isoformat()}")
    return 0
