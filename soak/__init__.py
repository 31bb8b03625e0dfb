"""A soak: loaders in random trouble for minutes, every microbatch checked, nothing left behind."""
