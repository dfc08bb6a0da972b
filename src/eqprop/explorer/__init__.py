"""A page on which one watches a network settle: one file that computes as the library does."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
