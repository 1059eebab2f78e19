"""The registry of sources: which file serves which URL scheme.

A source's file has a function `opened(config, log, failed)`, an asynchronous context manager that gives a
`base.Source`. A new source is that file and one line here.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Final

from structlog.typing import FilteringBoundLogger

from cdcbridge.engine_host import Failed
from cdcbridge.errors import ConfigError
from cdcbridge.settings import Config
from cdcbridge.sources.base import Source

MODULES: Final = {
    "embedded": "cdcbridge.sources.embedded",
}
"""Source files by URL scheme, imported when needed: a source's client library need not be installed for the others."""


def opened(config: Config, log: FilteringBoundLogger, failed: Failed) -> AbstractAsyncContextManager[Source]:
    """The configured source, ready to stream. `failed` is told when it can go on no more in the background.

    Raises:
        ConfigError: there is no source for the URL's scheme.
    """
    scheme = config.source.partition(":")[0]
    if (module := MODULES.get(scheme)) is None:
        known = ", ".join(f"{name}:" for name in MODULES)
        raise ConfigError("source", f"no source for URLs that begin with {scheme}:", f"known ones begin with {known}")
    source: AbstractAsyncContextManager[Source] = import_module(module).opened(config, log, failed)
    return source
