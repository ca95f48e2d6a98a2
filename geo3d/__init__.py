"""geo3d: the shared core of the 3D and geometry distillation workbench.

The core holds mathematics and plumbing only; the methods live in `shape_matching` (compare) and
`scenes` (generate).  Importing this package imports neither torch nor any native library.
"""

__version__ = "0.1.0"
