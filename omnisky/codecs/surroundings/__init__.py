"""What lies around an object as tokens: its neighbours, and maps of the cut-out."""
