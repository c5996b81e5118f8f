"""``audit``: which training images are likely mislabelled?

- ``source``: which images are ranked, of a dataset or of a finished run
- ``ranking``: the ranking, where it is cut, and how good it is where the truth is known
- ``evidence``: what an image has that the trusted ones have not, and the nearest of those
- ``page``: what is shown
"""
