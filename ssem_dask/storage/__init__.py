"""Everything on disk or behind a URL: volumes, fields, runs, the ledger, and the formats that can be imported.

No image maths and no torch here: arrays come in and go out as numpy.
"""
