"""How is an invented sky made in a shell? `omnisky mock`: native files, sky stores, a gallery."""
