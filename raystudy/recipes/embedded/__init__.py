"""The embedded corpus: text of the wheels this project pins, its manifest, its tokenizer and what made them."""
