"""A study of three recipes on text of its own, of which every run takes a few steps."""

from pathlib import Path

import numpy as np

from raystudy.recipes.sources import text

TEXT_STUDY = """
name: mutation-text
recipes:
  - {kind: text, name: a, dimension: corpus, sources: {s: {kind: text, files: [a.txt], holdout: 0.3}}}
  - {kind: text, name: b, dimension: corpus, steps: [{step: keep-best, share: 1}],
     sources: {s: {kind: text, files: [b.txt]}}}
  - {kind: text, name: c, dimension: corpus, sources: {s: {kind: text, files: [c.txt, extra.txt]}}}
validation:
  held: {source: {kind: text, files: [a.txt], holdout: 0.3}}
models:
  proxy: {kind: decoder, layers: 1, width: 8, heads: 1, context: 16}
training: {steps: 3, batch_tokens: 64}
protocols:
  truth: {kind: tuned, model: proxy, space: {lr: {grid: [1e-3, 1e-2]}}, seeds: [0]}
  reduced: {kind: reduced-lr, model: proxy, lr: 1e-3, seeds: [0]}
truth: truth
comparison: {resamples: 100}
"""


def own_text(folder: Path) -> Path:
    """The study and its files: words drawn at random, some 12 documents of 600 words each file."""
    generator = np.random.default_rng(3)
    words = ["".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), 5)) for _ in range(400)]
    for name in ("a", "b", "c", "extra"):
        documents = [" ".join(generator.choice(words, 600)) for _ in range(12)]
        (folder / f"{name}.txt").write_text("\n\n".join(documents))
    (folder / "study.yaml").write_text(TEXT_STUDY)
    return folder / "study.yaml"


def held_documents(folder: Path) -> list[str]:
    """What the validation set holds."""
    documents = text.cut_into_documents((folder / "a.txt").read_text())
    return [document for document in documents if text.hash_share(document) < 0.3]
