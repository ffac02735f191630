"""Generated landmarks: textured buildings with real geometry, photographed from many sides.

They stand in for photographs where there are none: in tests, in the demo, in training from nothing.
"""

from delf_tf.synthetic.architecture import KINDS, Landmark, build_landmark
from delf_tf.synthetic.collection import write_collection
from delf_tf.synthetic.views import (
    render_landscape,
    render_view,
)

__all__ = [
    "KINDS",
    "Landmark",
    "build_landmark",
    "render_landscape",
    "render_view",
    "write_collection",
]
