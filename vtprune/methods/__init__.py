"""Selection methods, one a file. Every module in this folder is imported, so a new file is all a method
needs."""

from importlib import import_module
from pkgutil import iter_modules

from vtprune.methods.base import (
    Method,
    MethodInfo,
    by_order,
    by_score,
    card,
    list_methods,
    make,
    merged,
    page,
    register,
    select,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Method",
    "MethodInfo",
    "by_order",
    "by_score",
    "card",
    "list_methods",
    "make",
    "merged",
    "page",
    "register",
    "select",
]
