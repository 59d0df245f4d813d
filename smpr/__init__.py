"SMPR, single-stage multi-person pose regression: explained, defined and tested in notebooks."
__version__ = "0.1.0"
