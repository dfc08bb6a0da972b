from .binary import BinaryWeights as BinaryWeights
from .mismatch import mismatched as mismatched
from .noise import noisy as noisy
from .writes import DeviceWrites as DeviceWrites
