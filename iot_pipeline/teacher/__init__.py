"""Client of the teacher: requests, answers, budget, and the store of paid answers."""
