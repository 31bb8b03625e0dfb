"""What a loader costs, against the ones that would be picked instead; see README.md."""
