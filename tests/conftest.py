"""Examples of laws have no time limit of their own: tests share their cores, and a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("shared cores", deadline=None)
settings.load_profile("shared cores")
