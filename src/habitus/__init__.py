"""habitus: models of user behaviour, from a raw log to a forecast."""

__version__ = "0.1.0"
