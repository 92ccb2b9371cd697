"""OpenAI-compatible server behind the default teacher: a rule-based analyst that reads its prompt."""
