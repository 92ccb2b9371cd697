"""The request engine that asks an LLM for explanations, and the embedded OpenAI-compatible teacher.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
