"""Devices that microbatches are copied to."""
