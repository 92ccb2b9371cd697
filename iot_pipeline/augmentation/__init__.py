"""Answers: prompts that ask for them, parsing and checking them, and the three tracks made of them.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
