"""Terms that the engine leaves out on purpose: each is refused with its reason."""

from __future__ import annotations

from cdcbridge.engine.reql.registry import refuse

refuse(
    "this engine has no geospatial queries and indexes",
    "CIRCLE",
    "DISTANCE",
    "FILL",
    "GEOJSON",
    "GET_INTERSECTING",
    "GET_NEAREST",
    "INCLUDES",
    "INTERSECTS",
    "LINE",
    "POINT",
    "POLYGON",
    "POLYGON_SUB",
    "TO_GEOJSON",
)
refuse("this engine runs no JavaScript; use ReQL's own functions", "JAVASCRIPT")
refuse("this engine fetches nothing from the network; fetch it in the client", "HTTP")
refuse("this engine has no write hooks; watch the table with `changes`", "GET_WRITE_HOOK", "SET_WRITE_HOOK")
refuse("this engine has one user, `admin`; its password is a setting", "GRANT")
refuse("it is a part of old drivers; use `between`", "BETWEEN_DEPRECATED")
