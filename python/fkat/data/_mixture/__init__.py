"""What is behind `fkat.data.dict`: the loaders of a mixture, and where each stands."""
