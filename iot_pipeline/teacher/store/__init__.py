"""The store of answers: every attempt, answer and reservation, in SQLite or on a database server."""
