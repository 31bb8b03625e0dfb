"""A small byte-level language model and its data: what examples/train_lm.py trains."""
