"""A trainer as anybody might have one: plain torch, its own model, no raystudy; told by arguments and spec.json."""

import argparse
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional


def read_tokens(folder):
    tokens = np.memmap(folder / "tokens.bin", dtype="<u2", mode="r")
    begins = np.load(folder / "documents.npy")  # where each document begins, and the end of the last
    return [tokens[begin:end] for begin, end in itertools.pairwise(begins)]


def read_recipe(folder):
    sources = json.loads((folder / "manifest.json").read_text())["sources"]
    for source in sources:  # documents that the recipe keeps of each source, one after another, and the source's share
        parts = [
            (read_tokens(folder.parent / part["shard"]), np.load(folder / part["kept"])) for part in source["parts"]
        ]
        yield source["weight"], np.concatenate([documents[kept] for documents, indices in parts for kept in indices])


class Windows:
    """A language model of the last two tokens; small, and unlike any of raystudy's."""

    def __init__(self, vocabulary, width, seed):
        draw = torch.Generator().manual_seed(seed)
        self.embed = (0.1 * torch.randn(2, vocabulary, width, generator=draw)).requires_grad_()
        self.head = (0.1 * torch.randn(width, vocabulary, generator=draw)).requires_grad_()
        self.weights = [self.embed, self.head]

    def losses(self, tokens):
        """Nats of every token after the first of `tokens` [sequences, length]."""
        before = torch.cat([tokens[:, :1], tokens[:, :-2]], dim=1)  # the first token has itself before it
        hidden = torch.tanh(self.embed[0][tokens[:, :-1]] + self.embed[1][before])
        return functional.cross_entropy((hidden @ self.head).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")


def batch_at(sources, step, spec, seed):
    draw = np.random.default_rng((seed, step))
    shares = [weight for weight, _ in sources]
    rows = []
    for source in draw.choice(len(sources), size=spec["settings"]["batch_sequences"], p=np.array(shares) / sum(shares)):
        tokens = sources[source][1]
        begin = draw.integers(0, len(tokens) - spec["context"] - 1)
        rows.append(tokens[begin : begin + spec["context"] + 1])
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@torch.no_grad()
def evaluate(model, held):
    documents = read_tokens(Path(held["path"]))
    sums = [model.losses(torch.from_numpy(d[None].astype(np.int64))).sum().item() for d in documents]
    scored = [len(document) - 1 for document in documents]  # the first token begins the document, and is not scored
    sizes = np.load(Path(held["path"]) / "document_bytes.npy").tolist()
    row = {"name": "loss", "dataset": held["name"], "value": sum(sums) / sum(scored)}
    return {**row, "loss_sum": sums, "num_tokens": scored, "num_bytes": sizes}


def replace(path, write):
    write(path.with_suffix(".writing"))
    os.replace(path.with_suffix(".writing"), path)


def main():
    parser = argparse.ArgumentParser()
    for name, kind in {"spec": Path, "data": Path, "out": Path, "lr": float, "seed": int, "steps": int}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    told = parser.parse_args()
    torch.set_num_threads(1)
    spec, sources = json.loads(told.spec.read_text()), list(read_recipe(told.data))
    model = Windows(spec["model"]["vocabulary"], spec["model"]["width"], told.seed)
    speeds = [torch.zeros_like(weight) for weight in model.weights]  # torch.optim loads torch._dynamo, for a second
    checkpoint, first, curve = told.out / "checkpoint.pt", 0, []
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        first, curve = kept["step"], kept["curve"]
        for weight, value in zip([*model.weights, *speeds], [*kept["weights"], *kept["speeds"]], strict=True):
            weight.data.copy_(value)
    print(f"starting after step {first}")
    for step in range(first, told.steps):
        loss = model.losses(batch_at(sources, step, spec, told.seed)).mean()
        for weight, speed, slope in zip(model.weights, speeds, torch.autograd.grad(loss, model.weights), strict=True):
            speed.mul_(0.9).add_(slope)
            weight.data.sub_(told.lr * speed)
        curve.append({"step": step + 1, "loss": loss.item()})
        state = {"step": step + 1, "curve": curve, "weights": model.weights, "speeds": speeds}
        replace(checkpoint, lambda path, state=state: torch.save(state, path))
        time.sleep(float(os.environ.get("FOREIGN_STEP_SECONDS", "0")))
    result = {"format": "raystudy-result/1", "run_id": spec["run_id"], "status": "finished", "curve": curve}
    result["metrics"] = [evaluate(model, held) for held in spec["validation"]]
    result["provenance"] = {"torch": torch.__version__, "started_after_step": first}
    replace(Path(spec["result"]), lambda path: path.write_text(json.dumps(result)))


if __name__ == "__main__":
    main()
