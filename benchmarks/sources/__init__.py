"""The data that is loaded: the same for every loader, and how its contents are checked."""
