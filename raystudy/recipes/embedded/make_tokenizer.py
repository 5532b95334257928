"""Makes tokenizer.json again: `python -m raystudy.recipes.embedded.make_tokenizer`.

Byte-level BPE with 1024 tokens, `<|endoftext|>` at id 0, trained on the training part of five embedded
domains (licences and tables are left out: they would spend the small vocabulary on legal phrases and
digits). Measured: two runs give the same bytes, whatever the number of threads. Not needed by users.
"""

import argparse
import sys
from pathlib import Path

from raystudy.recipes.embedded.manifest import read_documents
from raystudy.recipes.tokenizer import EMBEDDED_PATH, END_OF_TEXT
from raystudy.specs.recipe import Domain

VOCABULARY_SIZE = 1024
DOMAINS: tuple[Domain, ...] = ("prose", "code", "tests", "headers", "stubs")


def train_tokenizer() -> str:
    """The tokenizer as JSON text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = (document for domain in DOMAINS for document in read_documents(domain, "train"))
    tokenizer.train_from_iterator(documents, trainer)
    return str(tokenizer.to_str(pretty=True)) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the tokenizer (`--output` elsewhere)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=EMBEDDED_PATH)
    output: Path = parser.parse_args(arguments).output
    output.write_text(train_tokenizer())
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
