"""`/v1/personas`: who may answer, and how."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dragoman.v1 import persona_service_pb2 as pb
from dragoman_edge.calls import answer_of
from dragoman_edge.errors import EdgeError
from dragoman_edge.proto_json import read_message, to_json
from dragoman_edge.routes.native import native_route
from dragoman_edge.routing import Route

if TYPE_CHECKING:
    from dragoman_edge.edge import Edge
    from dragoman_edge.exchange import Exchange
    from dragoman_edge.http.response import Response

_ONE = "/v1/personas/{name}"
_TAG = "Personas"


def persona_routes(edge: Edge) -> list[Route]:
    """Returns the routes of personas."""
    core = edge.core.personas
    native = partial(native_route, edge, tag=_TAG)

    async def save_persona(exchange: Exchange) -> Response:
        persona = await read_message(edge, exchange, pb.Persona)
        name = exchange.params["name"]
        if persona.name not in ("", name):
            raise EdgeError("Invalid 'name': it must be that of the path.", param="name")
        persona.name = name
        request = pb.SavePersonaRequest(persona=persona)
        return exchange.json(to_json(await answer_of(core.SavePersona(request, metadata=exchange.metadata()))))

    return [
        native(
            "GET",
            "/v1/personas",
            core.ListPersonas,
            pb.ListPersonasRequest,
            pb.ListPersonasResponse,
            summary="Lists the personas that requests may name.",
        ),
        native(
            "GET",
            _ONE,
            core.GetPersona,
            pb.GetPersonaRequest,
            pb.GetPersonaResponse,
            summary="Returns a persona.",
        ),
        Route(
            "PUT",
            _ONE,
            save_persona,
            tag=_TAG,
            summary="Makes or replaces a persona of the account.",
            request=pb.Persona.DESCRIPTOR.full_name,
            answers={"application/json": pb.SavePersonaResponse.DESCRIPTOR.full_name},
        ),
        native(
            "DELETE",
            _ONE,
            core.DeletePersona,
            pb.DeletePersonaRequest,
            pb.DeletePersonaResponse,
            summary="Deletes a persona of the account.",
        ),
    ]
