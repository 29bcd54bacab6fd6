"""The words of a report, for readers who are not at home in image registration."""

from typing import Final

WORDS: Final = {
    "px, mip": "px are pixels of the source. A picture at mip n shows it with pixels 2ⁿ times as large.",
    "field": "how far, and where to, the tissue at each place of a section was moved. It is stored at nodes, a grid of "
    "points some 80 nm apart.",
    "coarse alignment": "the first step: each section is shifted, turned and sheared as a whole. All else is done by "
    "the field beyond it.",
    "window": "part of a section that is registered as one task.",
    "registration": "search for the places of two sections that show the same tissue. Sections are registered with "
    "several of their neighbours.",
    "confidence": "how clearly the two sections match at a place, from 0 (not at all) to 1.",
    "low quality": "the two sections were compared, but the result was not believed; the places count as unknown.",
    "uncertainty": "how far a section may still be from its right place relative to its neighbours, estimated from how "
    "well its pairs with several neighbours agree: one standard deviation, per direction.",
    "jitter": "the error by which a section jumps against the one before. It can be measured only where the truth is "
    "known; uncertainty is its estimate.",
    "drift": "the error that builds up slowly over many sections.",
    "natural motion": "the course that the tissue takes from section to section, as a neurite that runs obliquely. It "
    "must stay.",
    "NCC, CPC": "similarity of two sections: the correlation of their grey values over the whole, and the mean of "
    "those over squares of 64 px. 1 is the same picture, 0 none in common. Neighbouring sections show different "
    "tissue, so a sound volume does not reach 1.",
    "fold rate": "share of a section in which the field lays tissue over itself, which no alignment should.",
    "strain": "how much the field stretches or compresses tissue.",
    "slab": "thick section whose images follow each other without a loss; several follow each other in a volume.",
}
"""Meaning by word, for a person who reads a report."""
