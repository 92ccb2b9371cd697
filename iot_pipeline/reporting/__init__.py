"""Tables, figures and documents rendered from artefacts; nothing is measured here."""
