"""Supervised fine-tuning data."""
