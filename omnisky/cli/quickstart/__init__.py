"""``omnisky quickstart``: the whole chain, on real stars and on a mock sky."""
