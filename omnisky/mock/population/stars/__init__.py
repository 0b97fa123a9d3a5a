"""Stars: which there are along a line of sight, their states and motions."""
