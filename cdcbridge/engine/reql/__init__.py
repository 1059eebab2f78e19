"""ReQL: terms in, functions out.

`registry` compiles a query once into a function, `runtime` is what those functions work with, and every other file
registers the terms of one family. `library` loads them all.
"""
