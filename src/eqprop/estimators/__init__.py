"""Gradient estimators: each fills ``.grad``, so any ``torch.optim`` optimizer can follow."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
