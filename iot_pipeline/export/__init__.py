"""Export of a trained student to the formats of other engines, each measured beside the student that it was made of."""
