"""The store of answers: every attempt, answer and reservation, in SQLite or on a database server.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
