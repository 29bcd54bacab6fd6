"""A procedural ssEM volume whose labels and whose natural motion are known exactly.

Laws: the chunk of a box is a pure function of the configuration and the box, and equals the same box cut out of any
larger chunk, bit for bit. Memory grows with the box, never with the volume. The tissue of section z at position p is
the tissue at `p + natural_motion(z)(p)` of a volume that runs straight along z.
"""

from ssem_dask.evaluation.phantom.generate import PhantomChunk, generate
from ssem_dask.evaluation.phantom.motion import natural_motion
from ssem_dask.evaluation.phantom.phantom_config import PhantomConfig

__all__ = ["PhantomChunk", "PhantomConfig", "generate", "natural_motion"]
