"""The templates of this folder: pages that need no network, and sentences."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from xray_lightning.wording import open_templates, tell

say = partial(tell, __package__)  # the sentences of a subject


def page(template: str, values: Mapping[str, Any]) -> str:
    """A page from one of this folder's templates; what is in ``values`` is escaped."""
    return open_templates(__package__).get_template(template).render(**values)
