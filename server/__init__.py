"""The command line of S2 Mesh, and the generation server that will stand beside it.

Only a verb's own module loads the models; importing this package loads nothing.
"""

from core import __version__ as __version__
