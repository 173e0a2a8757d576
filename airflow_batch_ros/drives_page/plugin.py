"""What Airflow finds by the entry point ``airflow.plugins``: the page "Drives" in its navigation.

Every Airflow process imports this module, so it imports next to nothing: the page itself is imported when it
is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow import __version__ as airflow_version
from airflow.plugins_manager import AirflowPlugin
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

PREFIX = "/ros-to-parquet"

FIRST_VERSION = (3, 1, 1)
"""Of Airflow: the first that has external views, and whose login a page can see that is not of its own UI."""


class LazyPage:
    """An ASGI application that is made when the first request comes."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if self._app is None:
            from airflow_batch_ros.drives_page.app import make_app

            self._app = make_app()
        await self._app(scope, receive, send)


def has_page(version: str = airflow_version) -> bool:
    """Whether that Airflow can have the page.

    >>> has_page("3.1.0"), has_page("3.1.1"), has_page("3.10.0rc1"), has_page("2.11.0")
    (False, True, True, False)
    """
    return Version(version).release >= FIRST_VERSION


def page_url() -> str:
    """Where the page is on Airflow's own site: below the path of its ``base_url``."""
    from airflow.configuration import conf

    base = conf.get("api", "base_url", fallback="")
    return f"{urlsplit(base or '').path.rstrip('/')}{PREFIX}/"


class DrivesPagePlugin(AirflowPlugin):
    """The page, where this Airflow can have it."""

    name = "ros_to_parquet"
    if has_page():
        fastapi_apps = [{"name": "ROS to Parquet", "app": LazyPage(), "url_prefix": PREFIX}]
        external_views = [{"name": "Drives", "href": page_url(), "destination": "nav", "category": "browse"}]
