"""Speech recognition for languages nobody has trained for."""
