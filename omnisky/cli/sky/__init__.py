"""How are sky stores made, matched and cut from in a shell? A file a command.

`omnisky ingest`, `match`, `cutout`, `pack` and `verify`. The rooms they need are imported when they
run.
"""
