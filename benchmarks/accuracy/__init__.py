"""The accuracy benchmark: our modes beside other aligners on the same volumes, measured by the same metrics.

`make bench-accuracy` runs it. A *cell* is one method on one scene (a volume, undeformed or with known deformations);
it is one JSON file in a work folder and is not run again while its digests match. Every method gives one pull field per
section (C5), px of mip 0, and everything after that is the same for all.
"""
