"""What a person can choose: settings, presets, and the one mechanism behind them. No torch here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
