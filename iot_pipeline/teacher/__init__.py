"""Client of the teacher: requests, answers, budget, and the store of paid answers.

This file imports nothing, so that importing one module of the package stays cheap.
"""
