"""The lake: where artefacts live, how they are written and how one finds out what they were made of.

Belongs here: paths, manifests, atomic writes. Does not belong here: what the artefacts contain.
"""
