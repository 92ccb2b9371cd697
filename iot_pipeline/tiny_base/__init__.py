"""The student's default base: a small Qwen2 that is built and pre-trained here, on flows without labels.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
