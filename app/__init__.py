"""camserve: class scores and the heatmap they rest on, in one request."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("camserve")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+checkout"
