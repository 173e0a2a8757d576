"""Quality checks: what a drive's topics are like beside what they usually are.

A shard measures while it extracts (``watch``, ``values``) and leaves numbers in its manifest that add up
(``numbers``); the shard that commits the drive adds and judges them (``judge``) and writes the results as a
table (``table``).
"""
