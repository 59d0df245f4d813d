"""SMPR, single-stage multi-person pose regression: explained, defined and tested in notebooks.

What most programs need is here, imported when it is first used (`__init__.pyi` says from where):

    import smpr
    result = smpr.predict(smpr.load(), "holiday.jpg", threshold=0.3)
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
