"""What it costs to hand a microbatch from a producer process to the trainer."""
