"""omnisky: one Python system from survey files to any-to-any models of the sky and their use."""
