"""What a network does, looked at from close by: Theorem 1, convergence, weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
