"""The Typer commands, one file each.

A command reads its inputs, calls the library and writes its outputs. Heavy imports stand inside the functions, so that
``--help`` answers at once.
"""
