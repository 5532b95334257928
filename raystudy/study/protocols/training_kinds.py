"""The kinds of protocols whose runs train a model; others may rest on the weights that those runs leave."""

from collections.abc import Callable
from typing import Any

from raystudy.study.protocols.base import ProtocolKind
from raystudy.study.protocols.lr_ladder import LrLadder
from raystudy.study.protocols.single_lr import SingleLr
from raystudy.study.protocols.tuned import Tuned

TRAINING_KINDS: dict[str, Callable[[str, Any], ProtocolKind]] = {
    "tuned": Tuned,
    "reduced-lr": SingleLr,
    "standard-lr": SingleLr,
    "lr-ladder": LrLadder,
}
