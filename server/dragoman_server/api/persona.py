"""`dragoman.v1.PersonaService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragoman.v1 import persona_service_pb2 as pb
from dragoman.v1 import persona_service_pb2_grpc as rpc
from dragoman_server.api.interceptors import caller_of
from dragoman_server.api.status import mapped

if TYPE_CHECKING:
    import grpc

    from dragoman_server.personas.service import Personas

    Context = grpc.aio.ServicerContext[Any, Any]


class PersonaServicer(rpc.PersonaServiceServicer):
    """Serves the personas."""

    def __init__(self, personas: Personas) -> None:
        self._personas = personas

    @mapped
    async def ListPersonas(self, request: pb.ListPersonasRequest, context: Context) -> pb.ListPersonasResponse:
        """Lists the personas."""
        personas, token = await self._personas.page(caller_of(), request.page_size, request.page_token)
        return pb.ListPersonasResponse(personas=personas, next_page_token=token)

    @mapped
    async def GetPersona(self, request: pb.GetPersonaRequest, context: Context) -> pb.GetPersonaResponse:
        """Returns a persona."""
        return pb.GetPersonaResponse(persona=await self._personas.get(caller_of(), request.name))

    @mapped
    async def SavePersona(self, request: pb.SavePersonaRequest, context: Context) -> pb.SavePersonaResponse:
        """Makes or replaces a stored persona."""
        return pb.SavePersonaResponse(persona=await self._personas.save(caller_of(), request.persona))

    @mapped
    async def DeletePersona(self, request: pb.DeletePersonaRequest, context: Context) -> pb.DeletePersonaResponse:
        """Deletes a stored persona."""
        await self._personas.delete(caller_of(), request.name)
        return pb.DeletePersonaResponse()
