"""Coverage-guided fuzzing of the bag readers and of the definition compiler: see docs/development.md.

Nothing here needs atheris but ``__main__``: the tests replay the corpus through the same targets without it.
"""
