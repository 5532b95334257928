"""The estimate of memory against what autograd keeps and what a process grows by."""

import pytest
import torch

from raystudy.specs.memory import layer_bytes
from raystudy.specs.run import ResolvedDecoder
from raystudy.train.decoder import Decoder
from raystudy.train.precision import autocast, with_weights_of
from tests.train.peak_memory import grown_and_estimated

SHAPE = {"width": 64, "heads": 4, "context": 32, "vocabulary": 50}
ROWS = 8
FAMILIES = {
    "gpt2": {},
    "pythia": {"parallel_residual": True, "positions": "rotary", "rotary_share": 0.25},
    "opt": {"activation": "relu"},
    "llama": {"norm": "rms", "gated": True, "activation": "silu", "positions": "rotary", "mlp_width": 96},
    "grouped": {"positions": "rotary", "kv_heads": 2},
    "grouped-learned": {"kv_heads": 2},
    "qk-norm": {"qk_norm": True, "norm": "rms", "positions": "rotary", "kv_heads": 2},
    "qk-norm-learned": {"qk_norm": True},
    "parallel-rms": {"norm": "rms", "parallel_residual": True},
}
WHOLE = {"model": {"layers": 4, "width": 256, "heads": 4, "context": 64, "vocabulary": 4096}, "rows": 16}
IN_PARTS = {"model": {**WHOLE["model"], **FAMILIES["llama"], "mlp_width": 640}, "rows": 16, "micro": 512}


def kept_for_backward(layers: int, precision: str, family: dict) -> int:
    """Bytes that autograd keeps of a forward pass, parameters and what was there before not counted."""
    spec = ResolvedDecoder(kind="decoder", layers=layers, **SHAPE, **family)
    model = with_weights_of(Decoder(spec, 0), "bf16-weights" if precision == "bf16-master" else precision)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor, so that its place is not used again
        return tensor

    tokens = torch.zeros((ROWS, spec.context), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision, "cpu"):
        model(tokens)
    return sum(size for size, _ in kept.values())


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast", "bf16-master"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_activations_of_a_layer_are_what_autograd_keeps(family, precision):
    one, two = (kept_for_backward(layers, precision, FAMILIES[family]) for layers in (1, 2))
    spec = ResolvedDecoder(kind="decoder", layers=1, **SHAPE, **FAMILIES[family])
    copies = 0
    if precision == "bf16-autocast":  # a bf16 copy of every matrix, counted apart
        matrices = Decoder(spec, 0).blocks[0].parameters()
        copies = sum(2 * weight.numel() for weight in matrices if weight.ndim == 2)
    found = (two - one - copies) / (ROWS * spec.context)
    assert found == pytest.approx(layer_bytes(spec, precision), rel=0.01)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", [WHOLE, IN_PARTS], ids=["whole", "in parts"])
def test_a_process_that_trains_grows_by_what_is_estimated_and_by_no_more_than_half_again(case):
    grown, estimate = grown_and_estimated(case, timeout=100)
    assert estimate["total"] > 100 * 2**20  # or the process itself would hide it
    assert estimate["total"] / 1.1 < grown < 1.5 * estimate["total"]
