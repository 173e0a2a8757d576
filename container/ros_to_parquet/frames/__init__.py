"""Frames tables: a row for each message of a topic, or at a fixed rate, and what others have at that time.

`sources` reads topics a stretch of time at a time; `columns` gives all files of a topic the same columns;
`match` finds which message a frame gets, and `interpolate` makes one of two; `tree` and `poses` do so for
coordinate frames; `make` goes through a drive and writes the table, `reading` reads it.
"""
