"""A trained student at work: classes, sets and explanations of new flows, for files, streams and HTTP alike."""
