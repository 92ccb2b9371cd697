"""Teacher answers: prompts, parsing and checking, and the three training tracks built from them.

Nothing is imported here: importing one module loads only that module.
"""
