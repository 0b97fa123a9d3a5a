"""Bench room: versioned science tasks → JSON result cards → table, figure and claims."""
