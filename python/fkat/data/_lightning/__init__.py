"""What is behind `fkat.data.data_module`: everything that knows how Lightning works."""
