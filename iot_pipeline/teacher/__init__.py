"""The client that asks a teacher: requests, answers, budget, and the store that keeps what was paid for.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
