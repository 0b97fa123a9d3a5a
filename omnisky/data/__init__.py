"""Data room: data sets, splits and table files (cut-outs, matching and streams move in later)."""
