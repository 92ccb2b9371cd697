"""The OpenAI-compatible server behind the default teacher: a rule-based analyst that reads the prompt it is sent.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
