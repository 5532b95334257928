"""What an architecture of `transformers` does not hold is refused: no field of a spec is exported to something else."""

import pytest
import torch
import transformers
from pydantic import ValidationError

from raystudy.errors import DataError
from raystudy.specs.run import ResolvedDecoder
from raystudy.train.decoder import Decoder
from raystudy.train.transformers_families import family_of
from raystudy.train.transformers_format import model_files
from tests.train.test_families import FAMILIES, a_batch, shaken

# Another value for every field but sizes; what a row already has is no change, and is left out.
CHANGES = (
    {"tie_embeddings": True},
    {"tie_embeddings": False},
    {"kv_heads": 1},
    {"mlp_width": 64, "mlp_ratio": 4},
    {"activation": "gelu"},
    {"activation": "silu"},
    {"gated": True},
    {"gated": False},
    {"positions": "learned", "rotary_share": 1.0, "rotary_base": 10_000.0},
    {"positions": "rotary", "position_offset": 0},
    {"positions": "none", "rotary_share": 1.0, "rotary_base": 10_000.0, "position_offset": 0},
    {"position_offset": 3},
    {"rotary_share": 1 / 6},
    {"rotary_base": 77.0},
    {"norm": "layer"},
    {"norm": "rms"},
    {"norm_eps": 1e-3},
    {"qk_norm": True},
    {"qk_norm": False},
    {"parallel_residual": True},
    {"parallel_residual": False},
    {"attention_bias": True},
    {"attention_bias": False},
    {"mlp_bias": True},
    {"mlp_bias": False},
    {"init": "opt"},
)
ROWS = ("gpt2", "pythia", "opt", "llama, grouped queries", "qwen3, normalised queries and keys", "stablelm")


def changed(spec: ResolvedDecoder, change: dict) -> ResolvedDecoder | None:
    """`spec` of one layer with other fields; None where it has them already, or no model has them together."""
    fields = spec.model_dump()
    if all(fields[name] == value for name, value in change.items()):
        return None
    try:
        return ResolvedDecoder(**{**fields, "layers": 1, **change})
    except ValidationError:
        return None


@pytest.mark.timeout(110)
@pytest.mark.parametrize("name", ROWS)
def test_a_field_changed_in_a_family_is_either_refused_or_exported_with_the_same_logits(name, tmp_path):
    exported = refused = 0
    for change in CHANGES:
        spec = changed(FAMILIES[name][0], change)
        if spec is None:
            continue
        try:
            family_of(spec)
        except DataError:
            refused += 1
            continue
        ours = shaken(Decoder(spec, seed=0))
        weights = {parameter: weight.detach().numpy() for parameter, weight in ours.named_parameters()}
        folder = tmp_path / str(exported)
        folder.mkdir()
        for file, content in model_files(spec, weights, {"run": "x"}, end_of_text=0).items():
            (folder / file).write_bytes(content)
        theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), change
        with torch.no_grad():
            difference = float((theirs(a_batch()).logits - ours(a_batch())).abs().max())
        assert difference < 1e-5, f"{change} is exported as another model: logits differ by {difference}"
        exported += 1
    assert exported > 3, "too few changes were exported to say anything"
    assert refused > 3, "too few changes were refused to say anything"
