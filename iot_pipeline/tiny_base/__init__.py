"""Tiny base: the student's default base, a small Qwen2 built and pre-trained here on flows without labels."""
