"""Lineage for readers: chains from a figure or training row to its source, and proofs that figures still follow."""
