"""How is an invented sky put into files? In the layouts of the surveys, a file a survey.

Each module says what its survey stores (columns and arrays of native types), makes typed objects of
that with the functions of the survey's own reader, and writes it. So what is written reads back to
what the universe says, up to the compression of images.
"""
