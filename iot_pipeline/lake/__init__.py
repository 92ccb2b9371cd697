"""The lake: where artefacts live, how they are written and how one finds out what they were made of."""
