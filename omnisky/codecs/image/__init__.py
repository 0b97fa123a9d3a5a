"""Images of any survey as tokens, through one network."""
