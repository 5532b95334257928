"""The instrument as the mutation test sees it: a study run and compared, and what was said."""

import io
from pathlib import Path
from typing import Any

from raystudy.artifacts.storage import Storage
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.specs.load import load_study
from raystudy.study.results import StudyResults

KNOWN_TRUTH = Path(__file__).with_name("known-truth.yaml")
Seen = dict[str, Any]


def instrument(path: Path, root: Path) -> Seen:
    """Run the study (what is done is not done again), compare it, and see what was said."""
    loaded, storage, said = load_study(path), Storage(root), io.StringIO()
    launch = run_study(loaded, storage, InlineExecutor, Progress(said))
    comparison = StudyResults(Storage(root), Storage(root).study(loaded.spec.name), loaded.spec).comparison_json
    return {**comparison, "said": said.getvalue(), "made": launch.num_made}


def all_guards(seen: Seen) -> list[dict[str, list[str]]]:
    return [seen["truth_guards"], *(entry["guards"] for entry in seen["comparisons"])]


def unpaired(seen: Seen) -> bool:
    """The guard `unpaired`, on the truth or a candidate."""
    return any(guards["unpaired"] for guards in all_guards(seen))
