"""Numbers as tokens: one token each, binned on a scale that suits the quantity."""
