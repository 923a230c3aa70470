"""One file per step; each runs in a transaction."""
