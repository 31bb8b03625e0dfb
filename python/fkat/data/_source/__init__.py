"""What the user's factory returned, as a stream of microbatches that can begin anywhere."""
