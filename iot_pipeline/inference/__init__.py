"""Inference with a trained student."""
