"""What a device does to a network: noise, mismatch, weights of few values, writes that miss."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
