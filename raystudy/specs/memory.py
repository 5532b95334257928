"""How much memory one worker needs at most to train a decoder: an estimate from shapes alone, without torch.

Counted: weights, FP32 master weights, gradients, optimizer states, copies of weights that a run keeps, DeepSpeed's
reduction buffer, activations kept for the backward pass, logits and the loss, an evaluation. Not counted: the process
itself (Python, torch, a CUDA context: some hundred MiB), the allocator's fragments, workspaces of kernels, the shards
(memory-mapped), probes and downstream tasks. So a few percent more is needed than is said here.

Sources: weights, gradients and optimizer by ZeRO stage: Rajbhandari et al., arXiv 1910.02054, section 3 and figure 1,
with the copies that DeepSpeed 0.19 makes beside (its runtime/bf16_optimizer.py, zero/stage_1_and_2.py, zero/stage3.py).
Activations: Korthikanti et al., arXiv 2205.05198, section 4.1: 34 bytes a token, layer and width, of which 2 are
dropout's and 32 are 16 values of 2 bytes here, while the 5 a s^2 b of attention's scores are not stored by scaled dot
product attention; other families differ as `layer_bytes` says, which tests compare with what autograd keeps.
Activation checkpointing: section 5 there.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.model import DecoderSpec, count_parameters
from raystudy.specs.study import StudySpec
from raystudy.specs.training import Optimizer, Precision

GIB = 2**30
BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default of zero_optimization.reduce_bucket_size
LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's default of zero_optimization.stage3_max_live_parameters
EVALUATED_ROWS, EVALUATED_LOGITS = 64, 2**27  # most windows and logits at once of an evaluation
_FP32, _BF16 = 4, 2  # bytes of a number


@dataclass(frozen=True)
class Training:
    """All that the memory of a training depends on.

    `zero_stage` None: one process under plain torch. `micro_batch_tokens`: "auto" is a worker's share of the batch.
    """

    model: DecoderSpec
    vocabulary: int
    precision: Precision
    optimizer: Optimizer
    batch_tokens: int
    device: str = "cpu"
    workers: int = 1
    zero_stage: int | None = None
    offload: Literal["none", "optimizer", "optimizer-and-weights"] = "none"
    activation_checkpointing: bool = False
    micro_batch_tokens: int | Literal["auto"] = "auto"
    bucket_elements: int = BUCKET_ELEMENTS
    live_parameters: int = LIVE_PARAMETERS

    @property
    def share_tokens(self) -> int:
        """Tokens of a batch that one worker reads, at most."""
        sequences = self.batch_tokens // self.model.context
        return -(-sequences // self.workers) * self.model.context

    @property
    def tokens_at_once(self) -> int:
        """Tokens of one worker in memory at once."""
        if self.micro_batch_tokens == "auto":
            return self.share_tokens
        context = self.model.context
        return min(max(self.micro_batch_tokens // context, 1) * context, self.share_tokens)

    @property
    def finds_its_part(self) -> bool:
        """Whether the micro-batch shrinks by itself where memory does not suffice: `auto`, but not of CPU workers."""
        return self.micro_batch_tokens == "auto" and (self.zero_stage is None or self.device == "cuda")

    @property
    def smallest(self) -> "Training":
        """The same with the smallest micro-batch that can be: one sequence."""
        return replace(self, micro_batch_tokens=self.model.context)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one worker at most, by what they hold; `total` is the most at one time, so less than the sum.

    `host`: what offloading holds in the host's memory instead of the device's (on CPUs both are one memory, and all is
    in the parts).
    """

    weights: int
    masters: int
    gradients: int
    optimizer: int
    copies: int
    buffers: int
    activations: int
    logits: int
    evaluation: int
    host: int
    total: int

    def as_dict(self) -> dict[str, int]:
        """Plain data, for JSON."""
        return dict(vars(self))


def training_of(study: StudySpec, name: str, vocabulary: int) -> Training:
    """How the decoder `name` of a study trains."""
    model, settings = study.decoder(name), study.settings_of(name)
    common = Training(model.shape, vocabulary, settings.precision, settings.optimizer, settings.batch_tokens)
    engine = model.engine
    if not isinstance(engine, DeepSpeedEngine):
        return replace(common, device=study.device_of(name), micro_batch_tokens=study.resources.micro_batch_tokens)
    zero = engine.config.get("zero_optimization", {})
    return replace(
        common,
        device=engine.device,
        workers=engine.workers,
        zero_stage=engine.zero_stage,
        offload=engine.offload,
        activation_checkpointing=engine.activation_checkpointing,
        micro_batch_tokens=engine.micro_batch_tokens,
        bucket_elements=_count(zero, "reduce_bucket_size", BUCKET_ELEMENTS),
        live_parameters=_count(zero, "stage3_max_live_parameters", LIVE_PARAMETERS),
    )


def _count(section: Any, key: str, default: int) -> int:
    value = section.get(key, default) if isinstance(section, dict) else default
    return int(value) if isinstance(value, int | float) else default


def estimate_memory(training: Training, *, evaluates: bool = True) -> MemoryEstimate:
    """The most bytes that one worker of `training` needs at one time, its evaluations too where it `evaluates`.

    The most is held when a backward pass begins (all activations and logits; gradients only of earlier micro-batches),
    when it has ended (all gradients), or in an evaluation.
    """
    states = _states(training)
    tokens = training.tokens_at_once
    activations = tokens * _activation_bytes_per_token(training)
    logits = tokens * _logit_bytes_per_token(training)
    evaluation = _evaluation_bytes(training, states, evaluates=evaluates)
    is_first_part_all = tokens >= training.share_tokens
    before = states.gradients if _keeps_gradients(training) or not is_first_part_all else 0
    held = states.weights + states.masters + states.optimizer + states.copies + states.buffers
    most = max(before + activations + logits, states.gradients + states.stepping, evaluation)
    parts = {name: size for name, size in vars(states).items() if name != "stepping"}
    return MemoryEstimate(**parts, activations=activations, logits=logits, evaluation=evaluation, total=held + most)


@dataclass(frozen=True)
class _States:
    """Bytes that rest on the number of parameters; `stepping`: what an optimizer step adds."""

    weights: int
    masters: int
    gradients: int
    optimizer: int
    copies: int
    buffers: int
    stepping: int
    host: int


def _states(training: Training) -> _States:
    count, stage = count_parameters(training.model, training.vocabulary).total, training.zero_stage or 0
    part = -(-count // training.workers)
    owned = part if stage >= 1 else count  # whose masters and optimizer states this worker holds
    is_bf16 = training.precision == "bf16-master"
    each = _BF16 if training.precision in ("bf16-master", "bf16-weights") else _FP32
    gathered = min(count, training.live_parameters) if stage == 3 else 0
    weights = each * (part if stage == 3 else count) + (each * gathered if training.workers > 1 else 0)
    has_masters = is_bf16 or stage in (1, 2)  # stages 1 and 2 clone their part of FP32 weights too
    masters = _FP32 * owned if has_masters else 0
    states = 2 if training.optimizer.kind == "adamw" else int(training.optimizer.momentum > 0)
    optimizer = (each if training.precision == "bf16-weights" else _FP32) * states * owned
    added = _FP32 if is_bf16 and stage else each  # what gradients of several micro-batches are added up in
    gradients = {0: each * count, 1: each * count + added * (count if is_bf16 else part)}.get(stage, added * part)
    stepping = _FP32 * owned if is_bf16 and stage != 1 else 0  # gradients once more, flat and in FP32
    buffers = 0
    if stage >= (2 if is_bf16 else 1):
        asked = training.bucket_elements  # on CPUs pages that are never touched take nothing
        buffers = each * (asked if training.device == "cuda" else min(asked, count))
    copies = _FP32 * count if training.zero_stage is None else 0  # weights of initialisation, to see how far they move
    if training.precision == "bf16-autocast":
        copies += _BF16 * _matrix_elements(training.model, training.vocabulary)
    host = 0
    if training.device == "cuda" and training.offload != "none":
        host = masters + optimizer + _FP32 * owned
        masters, optimizer, stepping = 0, 0, 0
        gradients = each * count if stage == 1 else 0
        if training.offload == "optimizer-and-weights":
            host, weights = host + each * part, each * gathered
    return _States(weights, masters, gradients, optimizer, copies, buffers, stepping, host)


def _matrix_elements(model: DecoderSpec, vocabulary: int) -> int:
    """Parameters that enter a matrix product: what autocast keeps a bf16 copy of until the backward pass is over."""
    width, hidden = model.width, model.hidden_width
    attention = width * (2 * width + 2 * model.num_kv_heads * model.head_width)
    return model.layers * (attention + width * hidden * (3 if model.gated else 2)) + vocabulary * width


def layer_bytes(model: DecoderSpec, precision: Precision) -> int:
    """Bytes per token that one layer keeps for its backward pass.

    In values of the width d and the MLP's width h, for GPT-2: both norms' inputs and outputs 4 d, queries, keys and
    values 3 d, attention's output d, the MLP's hidden layer before and after the activation 2 h. Statistics of norms
    and attention's log-sums are FP32. An RMSNorm is counted as the CPU computes it, which keeps the normalised input
    too, in FP32; a GPU's fused one keeps less.
    """
    value, residual = _value_bytes(precision), _residual_bytes(precision)
    width, heads, kv_heads = model.width, model.heads, model.num_kv_heads
    inputs = (1 if model.parallel_residual else 2) * residual * width
    statistics = 2 * 2 * _FP32
    if model.norm == "rms":
        statistics = 2 * _FP32
        inputs += 2 * _FP32 * width
        if residual == _BF16:  # converted for it, each norm by itself
            inputs = 2 * 2 * _FP32 * width
    kv_width = kv_heads * model.head_width
    has_own = model.positions == "rotary" or model.qk_norm  # queries and keys are made anew
    is_shared = kv_heads < heads
    keeps_projection = not is_shared or not has_own or (model.qk_norm and value == _FP32)
    attention = (width + 2 * kv_width) * keeps_projection + width  # its output
    attention += 2 * width if is_shared else 0  # keys and values repeated
    if has_own:
        attention += width + (0 if is_shared else kv_width) + width  # the last: its output is laid out anew
    normed = 0
    if model.qk_norm:
        normed = (1 if value == _FP32 else 2) * _FP32 * (width + kv_width) + _FP32 * (heads + kv_heads)
    mlp = model.hidden_width * (4 if model.gated else 1 if model.activation == "relu" else 2)
    return inputs + statistics + value * (2 * width + attention + mlp) + normed + _FP32 * heads


def _activation_bytes_per_token(training: Training) -> int:
    model, precision = training.model, training.precision
    layer, kept = layer_bytes(model, precision), _residual_bytes(precision) * model.width
    layers = kept * model.layers + layer if training.activation_checkpointing else layer * model.layers
    last = kept + _value_bytes(precision) * model.width + 2 * _FP32  # the last norm's input and output
    if model.norm == "rms":
        last += _FP32 * model.width * (1 if kept == _FP32 * model.width else 2)
    return layers + last + 2 * 8  # token ids, read and to be told


def _logit_bytes_per_token(training: Training) -> int:
    """Logits, their log-softmax in FP32, and the gradients of both, all alive at once when a backward pass begins.

    Where the vocabulary is small, the gradients of an MLP's hidden layer are more.
    """
    model, value = training.model, _value_bytes(training.precision)
    logits = training.vocabulary * (value + 3 * _FP32)
    hidden = model.hidden_width * (2 if model.gated else 1)
    return max(logits, training.vocabulary * value + value * (2 * hidden + 2 * model.width))


def _evaluation_bytes(training: Training, states: _States, *, evaluates: bool) -> int:
    """Of an evaluation, in FP32 without gradients: logits, their log-softmax, the logits before; or hidden layers.

    Under DeepSpeed every worker puts the whole FP32 weights together for it, and at the end those of initialisation.
    Gradients are there where they are not let go after a step.
    """
    context, vocabulary, model = training.model.context, training.vocabulary, training.model
    rows = max(1, min(EVALUATED_ROWS, EVALUATED_LOGITS // (context * vocabulary)))
    hidden = model.hidden_width * (2 if model.gated else 1)
    activations = evaluates * rows * context * _FP32 * (model.width + max(3 * vocabulary, 2 * hidden + model.width))
    if training.zero_stage is None:
        return states.gradients + activations
    whole = _FP32 * count_parameters(model, vocabulary).total
    return (states.gradients if _keeps_gradients(training) else 0) + whole + max(activations, whole)


def _keeps_gradients(training: Training) -> bool:
    """Whether gradients lie in buffers of DeepSpeed's that stay between steps."""
    return training.zero_stage == 3 or (training.zero_stage == 1 and training.precision == "bf16-master")


def _value_bytes(precision: Precision) -> int:
    """Of an activation between matrix products."""
    return _FP32 if precision in ("fp32", "tf32") else _BF16


def _residual_bytes(precision: Precision) -> int:
    """Of an activation in the residual stream, which autocast leaves in FP32."""
    return _FP32 if precision in ("fp32", "tf32", "bf16-autocast") else _BF16
