"""Tests of what stands behind single commands."""
