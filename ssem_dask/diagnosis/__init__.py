"""From measurements of sections to names: which sections are spoilt, how, and how certain that is."""
