"""The demonstration behind ``make demo``: a generated drive, or anybody's, through the real pipeline."""
