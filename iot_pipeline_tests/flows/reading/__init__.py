"""Tests of the package `flows.reading`."""
