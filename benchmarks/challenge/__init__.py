"""The challenge: every method on the same freely licensed sections, and a page that says where each is better or worse.

make challenge                                        # all methods that are installed
python -m benchmarks.challenge --adapter mine.py      # and one of your own; see adapters/template.py
"""
