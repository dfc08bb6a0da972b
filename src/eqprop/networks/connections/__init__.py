"""How two layers pull at each other: one file per kind of connection."""
