"""Base models: finding, checking and loading a base, its tokeniser and its adapters."""
