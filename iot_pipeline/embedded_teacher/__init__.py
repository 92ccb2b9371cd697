"""OpenAI-compatible server behind the default teacher: a rule-based analyst that reads its prompt.

This file imports nothing, so that importing one module of the package stays cheap.
"""
