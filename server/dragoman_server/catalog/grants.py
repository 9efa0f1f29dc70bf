"""What a caller's credential is restricted to, applied to models and who serves them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dragoman_server.caller import permits_model
from dragoman_server.errors import Forbidden

if TYPE_CHECKING:
    from dragoman_server.caller import Grants
    from dragoman_server.providers.routing.route import Route


def permitted(route: Route, grants: Grants) -> Route:
    """Returns the route with those of its targets that the caller may be served by.

    Raises:
        Forbidden: If the caller may not ask for the model, or none of its providers may serve the caller.
    """
    if not permits_model(grants, route.model_id):
        raise Forbidden(
            f"the credential does not permit the model `{route.model_id}`",
            field="spec.chat.model",
            metadata={"model": route.model_id},
        )
    if not grants.providers:
        return route
    options = [option for option in route.options if option.target.provider.name in grants.providers]
    if not options:
        raise Forbidden(
            f"the credential permits no provider of the model `{route.model_id}`",
            field="spec.chat.model",
            metadata={"model": route.model_id, "providers": " ".join(sorted(grants.providers))},
        )
    return route if len(options) == len(route.options) else replace(route, options=options)
