"""Spectra as tokens: on a fixed grid, on a latent grid, or on their own."""
