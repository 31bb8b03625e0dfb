"""What is behind `fkat.data.sharded`: which shards, whose, in which order, and where they stand."""
