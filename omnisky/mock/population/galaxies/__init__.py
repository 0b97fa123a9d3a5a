"""Galaxies: which there are, their physics, shapes and classes."""
