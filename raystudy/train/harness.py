"""A trained decoder as a model of lm-evaluation-harness, which asks in text and is answered in log-probabilities.

Needs the extra `tasks`. How text becomes tokens is given from outside; how tokens are scored is in `downstream`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import LM
from torch import nn

from raystudy.errors import DataError
from raystudy.train.downstream import Scored, TokenArray, score_continuations

EncodePairs = Callable[[Sequence[tuple[str, str]]], list[tuple[TokenArray, TokenArray]]]


class HarnessModel(LM):  # type: ignore[misc]
    """What `lm_eval.simple_evaluate(model=...)` takes. It scores text, and generates none.

    Args:
        model: a decoder in evaluation: tokens [batch, length] to logits [batch, length, vocabulary].
        encode: tokens of (context, continuation) pairs; a context begins with the end-of-text token.
        context: the most tokens that the model reads.
        device: where it is.
    """

    def __init__(self, model: nn.Module, encode: EncodePairs, context: int, device: str = "cpu") -> None:
        super().__init__()
        self._model, self._encode, self._context, self._device = model, encode, context, device

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability (nats) of each request's continuation, and whether each of its tokens was the likeliest."""
        scores = self._score([(str(context), str(continuation)) for context, continuation in _arguments(requests)])
        return [(score.log_probability, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Log-probability (nats) of each request's whole text, every token scored once."""
        return [score.log_probability for score in self._score([("", str(text)) for (text,) in _arguments(requests)])]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Refused.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"a task must ask for log-probabilities of given texts, but one asks for {len(requests)} generated texts, "
            f"which models of this size and raystudy do not give. Choose multiple-choice tasks"
        )

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        return score_continuations(self._model, self._encode(pairs), self._context, self._device)


def _arguments(requests: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [request.args for request in requests]
