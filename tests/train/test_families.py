"""Every family against `transformers`: counts of parameters, logits, gradients, and exported folders."""

import json

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from raystudy.artifacts.shards import open_tokens, open_view
from raystudy.errors import DataError
from raystudy.specs.model import DecoderSpec, count_parameters
from raystudy.specs.presets import PRESETS
from raystudy.specs.run import NUMERICS, ResolvedDecoder, TrainRun
from raystudy.specs.training import AdamW, RunSettings, WarmupStableDecay
from raystudy.train.decoder import Decoder
from raystudy.train.evaluation import ValidationDocuments, evaluate
from raystudy.train.run import load_weights, train
from raystudy.train.transformers_families import family_of
from raystudy.train.transformers_format import from_transformers, model_files

VOCABULARY, CONTEXT = 101, 24
SMALL = {"layers": 2, "width": 48, "heads": 4, "context": CONTEXT}
COMMON = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4}
COMMON |= {"max_position_embeddings": CONTEXT}
GATED = {**COMMON, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 12}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
ROTARY = {"rope_type": "default", "rope_theta": 500.0}


def a_spec(preset: str, **own) -> ResolvedDecoder:
    fields = {**PRESETS[preset].fields, **SMALL, **own}
    return ResolvedDecoder(kind="decoder", vocabulary=VOCABULARY, **fields)


# Our spec, and the architecture with its configuration written by hand.
FAMILIES = {
    "gpt2": (
        a_spec("gpt2"),
        transformers.GPT2LMHeadModel,
        lambda: transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=48, n_layer=2, n_head=4, **NO_DROPOUT
        ),
    ),
    "pythia": (
        a_spec("pythia", rotary_share=1 / 3),
        transformers.GPTNeoXForCausalLM,
        lambda: transformers.GPTNeoXConfig(**COMMON, intermediate_size=192, rotary_pct=1 / 3),
    ),
    "gpt-neox, residuals one after the other": (
        a_spec("pythia", rotary_share=0.5, rotary_base=500.0, parallel_residual=False, attention_bias=False),
        transformers.GPTNeoXForCausalLM,
        lambda: transformers.GPTNeoXConfig(
            **COMMON,
            intermediate_size=192,
            rope_parameters={**ROTARY, "partial_rotary_factor": 0.5},
            use_parallel_residual=False,
            attention_bias=False,
        ),
    ),
    "opt": (
        a_spec("opt"),
        transformers.OPTForCausalLM,
        lambda: transformers.OPTConfig(**COMMON, ffn_dim=192, dropout=0.0, pad_token_id=None),
    ),
    "llama, grouped queries": (
        a_spec("llama", mlp_width=80, kv_heads=2, rotary_base=500.0, norm_eps=1e-6),
        transformers.LlamaForCausalLM,
        lambda: transformers.LlamaConfig(**GATED, rope_parameters=ROTARY, rms_norm_eps=1e-6),
    ),
    "llama, biases and a tied head": (
        a_spec("llama", mlp_width=80, kv_heads=1, attention_bias=True, mlp_bias=True, tie_embeddings=True),
        transformers.LlamaForCausalLM,
        lambda: transformers.LlamaConfig(
            **{**GATED, "num_key_value_heads": 1},
            rms_norm_eps=1e-5,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3, normalised queries and keys": (
        a_spec("llama", mlp_width=80, kv_heads=2, qk_norm=True),
        transformers.Qwen3ForCausalLM,
        lambda: transformers.Qwen3Config(**GATED, rms_norm_eps=1e-5),
    ),
    "stablelm": (
        a_spec("stablelm", mlp_width=80, rotary_share=1 / 3),
        transformers.StableLmForCausalLM,
        lambda: transformers.StableLmConfig(
            **COMMON, intermediate_size=80, num_key_value_heads=4, partial_rotary_factor=1 / 3
        ),
    ),
    "stablelm, grouped queries": (
        a_spec("stablelm", mlp_width=80, kv_heads=2, rotary_share=0.5, rotary_base=500.0, norm_eps=1e-6),
        transformers.StableLmForCausalLM,
        lambda: transformers.StableLmConfig(
            **COMMON,
            intermediate_size=80,
            num_key_value_heads=2,
            rope_parameters={**ROTARY, "partial_rotary_factor": 0.5},
            layer_norm_eps=1e-6,
        ),
    ),
}


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn anew, biases and gains too, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.1, generator=generator)
    return model


def arrays(named: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """As in a file of weights: GPT-NeoX's head is called embed_out there."""
    is_neox = any(name.startswith("gpt_neox.") for name in named)
    names = {name: name.replace("lm_head", "embed_out") if is_neox else name for name in named}
    return {names[name]: tensor.detach().numpy() for name, tensor in named.items()}


def loss_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def a_batch() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(0))


def our_model(spec: ResolvedDecoder, weights: dict[str, np.ndarray]) -> Decoder:
    model = Decoder(spec, seed=0)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_with_the_weights_of_transformers_logits_and_gradients_are_theirs(name):
    spec, architecture, config = FAMILIES[name]
    theirs = shaken(architecture(config()))
    ours = our_model(spec, from_transformers(spec, arrays(dict(theirs.named_parameters()))))
    tokens = a_batch()
    their_logits, our_logits = theirs(tokens).logits, ours(tokens)
    logits = float((their_logits - our_logits).abs().max().detach())
    for model, found in ((theirs, their_logits), (ours, our_logits)):
        model.zero_grad()
        loss_of(found, tokens).backward()
    their_gradients = from_transformers(spec, arrays({name: p.grad for name, p in theirs.named_parameters()}))
    our_gradients = {name: parameter.grad.numpy() for name, parameter in ours.named_parameters()}
    assert their_gradients.keys() == our_gradients.keys()
    differences = {name: float(np.abs(their_gradients[name] - own).max()) for name, own in our_gradients.items()}
    sizes = {name: float(np.abs(own).max()) for name, own in our_gradients.items()}
    gradients = max(differences.values())
    print(f"{name}: largest difference of logits {logits:.1e}, of gradients {gradients:.1e}")
    assert float(our_logits.detach().std()) > 0.1, "logits near zero would agree whatever the model"
    assert logits < 1e-5
    assert gradients < 1e-4
    assert max(differences[name] / sizes[name] for name in sizes) < 1e-4, "small gradients must agree too"


PUBLISHED = {
    "gpt2-124m": transformers.GPT2Config(n_layer=12, n_embd=768, n_head=12),
    "gpt2-355m": transformers.GPT2Config(n_layer=24, n_embd=1024, n_head=16),
    "gpt2-774m": transformers.GPT2Config(n_layer=36, n_embd=1280, n_head=20),
    "pythia-70m": (6, 512, 8),
    "pythia-160m": (12, 768, 12),
    "pythia-410m": (24, 1024, 16),
    "pythia-1b": (16, 2048, 8),
    "opt-125m": transformers.OPTConfig(),
    "stablelm-3b": transformers.StableLmConfig(),
}


def published(name: str) -> transformers.PreTrainedConfig:
    config = PUBLISHED[name]
    if isinstance(config, tuple):
        layers, width, heads = config
        return transformers.GPTNeoXConfig(
            vocab_size=50304,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
    return config


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_has_as_many_parameters_as_the_model_of_transformers(name):
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(published(name))
    preset = PRESETS[name]
    spec = DecoderSpec(kind="decoder", **preset.fields)
    assert count_parameters(spec, preset.vocabulary).total == sum(p.numel() for p in model.parameters())
    resolved = ResolvedDecoder(kind="decoder", **preset.fields, vocabulary=preset.vocabulary)
    with torch.device("meta"):
        ours = Decoder(resolved.model_copy(update={"layers": 1}), seed=0)
    one = count_parameters(spec.model_copy(update={"layers": 1}), preset.vocabulary)
    assert one.total == sum(p.numel() for p in ours.parameters())


MUP = {"mup_base_width": 24, "mup_base_heads": 4}


@pytest.mark.parametrize(
    "spec",
    [
        *(spec for spec, _, _ in FAMILIES.values()),
        a_spec("gpt2", activation="relu", mlp_ratio=2, tie_embeddings=False, norm_eps=1e-6),
        a_spec("gpt2", **MUP),
        a_spec("pythia", rotary_share=1.0, **MUP),
        a_spec("llama", mlp_width=80, kv_heads=2, qk_norm=True, **MUP),
    ],
    ids=[*FAMILIES, "gpt2, relu and an own head", "gpt2, muP", "pythia, muP", "llama, muP"],
)
def test_an_exported_folder_is_loaded_by_transformers_and_gives_the_same_logits(spec, tmp_path):
    ours = shaken(Decoder(spec, seed=0))
    weights = {name: parameter.detach().numpy() for name, parameter in ours.named_parameters()}
    for name, content in model_files(spec, weights, {"run": "x"}, end_of_text=0).items():
        (tmp_path / name).write_bytes(content)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == family_of(spec).architecture
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = a_batch()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 0


@pytest.mark.parametrize(
    ("preset", "own", "expected"),
    [
        ("gpt2", {"norm": "rms"}, "for the nearest, gpt2: norm must be layer, but is rms"),
        ("llama", {"positions": "none"}, "positions must be rotary, but is none"),
        ("gpt2", {"kv_heads": 2}, "kv_heads must be heads, but is 2"),
        ("opt", {"norm_eps": 1e-6}, "position_offset must be 0, but is 2"),
    ],
)
def test_a_model_that_no_architecture_holds_is_refused_with_what_is_in_the_way(preset, own, expected):
    with pytest.raises(DataError, match=expected):
        family_of(a_spec(preset, **own))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns_sees_no_later_token_and_its_kept_weights_are_the_model(name, shard_storage):
    storage, view, validation = shard_storage
    shard = open_tokens(storage, validation)
    documents = {validation: ValidationDocuments(shard.documents(), shard.document_bytes.tolist())}
    schedule = WarmupStableDecay(kind="wsd", warmup=0.1, decay=0.2)
    settings = RunSettings(steps=60, batch_sequences=4, lr=1e-2, schedule=schedule, optimizer=AdamW(), clip=1.0)
    run = TrainRun(kind="train", shards=view, model=FAMILIES[name][0], settings=settings, seed=0, numerics=NUMERICS)
    outcome = train(run, open_view(storage, view), documents)
    assert outcome.status == "finished"
    assert outcome.final[validation].nats_per_token < outcome.unigram[validation] - 0.2
    kept = load_weights(run, outcome.weights)
    again = evaluate(kept, documents[validation], CONTEXT, "cpu")
    np.testing.assert_array_equal(again.loss_sum, outcome.final[validation].loss_sum)
    tokens = a_batch()
    changed = torch.cat((tokens[:, :10], (tokens[:, 10:] + 1) % VOCABULARY), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(kept(tokens)[:, :10], kept(changed)[:, :10])
        torch.testing.assert_close(kept(tokens)[:, :10], kept(tokens[:, :10]))
        assert not torch.allclose(kept(tokens)[:, 10:], kept(changed)[:, 10:], atol=1e-2)
