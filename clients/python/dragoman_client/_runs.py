"""Runs, in the contract's own terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1.run_pb2 import DisconnectPolicy, Run, RunSpec
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_client._stream import RunStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc

    from dragoman_client._calls import Caller
    from dragoman_client._stream import StreamCall

_DETACHED = (DisconnectPolicy.DISCONNECT_POLICY_DETACH, DisconnectPolicy.DISCONNECT_POLICY_DETACH_FOR)


class Runs:
    """Starts, reads and cancels runs. Every method raises `DragomanClientError` if its call fails."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub = RunServiceStub(channel)
        self._caller = caller

    async def execute(self, spec: RunSpec, *, request_id: str = "", timeout: float | None = None) -> Run:
        """Runs to the end and returns the record; whether the run went well is in its state.

        Args:
            spec: What is to be executed.
            request_id: Idempotency key: a repeated call gets the run of the first one.
            timeout: Seconds until the run fails with DEADLINE_EXCEEDED; None for no bound.
        """
        request = pb.ExecuteRunRequest(spec=spec, request_id=request_id)
        return (await self._caller.unary(self._stub.ExecuteRun, request, timeout=timeout)).run

    async def start(self, spec: RunSpec, *, request_id: str = "") -> Run:
        """Starts a run that goes on without a caller, and returns its record so far."""
        request = pb.StartRunRequest(spec=spec, request_id=request_id)
        return (await self._caller.quick(self._stub.StartRun, request)).run

    def stream(self, spec: RunSpec, *, request_id: str = "", timeout: float | None = None) -> RunStream:
        """Runs and streams the events; the run starts with the first step of the iteration.

        The stream survives a broken connection if the run does: with a request id, or with a policy that detaches. A
        run that owes its policy to a request id goes on alone for a minute; ask for DETACH if it may take longer.

        Args:
            spec: What is to be executed.
            request_id: Idempotency key: a repeated call streams the run of the first one.
            timeout: Seconds until the run fails with DEADLINE_EXCEEDED; None for no bound.
        """

        def open_call(run_id: str, after_sequence: int, timeout: float | None) -> StreamCall:
            if run_id:
                return self._watch(run_id, after_sequence, timeout)
            request = pb.StreamRunRequest(spec=spec, request_id=request_id)
            return self._stub.StreamRun(request, timeout=timeout, metadata=self._caller.metadata)

        def can_resume(run_id: str) -> bool:
            if spec.disconnect_policy == DisconnectPolicy.DISCONNECT_POLICY_CANCEL:
                return False
            # Before the first event nobody knows the run: only its request id keeps a second call from a second run.
            return bool(request_id) or (bool(run_id) and spec.disconnect_policy in _DETACHED)

        return RunStream(open_call, can_resume=can_resume, raise_failure=True, timeout=timeout)

    def watch(self, run_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> RunStream:
        """Streams the events of a run after a sequence, to its end. How the run ends is told by its last event alone.

        Args:
            run_id: The run.
            after_sequence: The last sequence that the reader has; 0 for all.
            timeout: Seconds until the watch ends; the run does not care.
        """
        return RunStream(
            self._watch,
            can_resume=lambda _: True,
            raise_failure=False,
            run_id=run_id,
            after_sequence=after_sequence,
            timeout=timeout,
        )

    async def get(self, run_id: str) -> Run:
        """Returns the record of a run so far."""
        request = pb.GetRunRequest(run_id=run_id)
        return (await self._caller.quick(self._stub.GetRun, request, run_id=run_id)).run

    async def cancel(self, run_id: str) -> Run:
        """Cancels a run and returns its record; a run that has ended is returned unchanged."""
        request = pb.CancelRunRequest(run_id=run_id)
        return (await self._caller.quick(self._stub.CancelRun, request, run_id=run_id)).run

    def list(self) -> AsyncIterator[Run]:
        """Yields the runs that are still kept, newest first, without their choices."""
        return self._caller.pages(self._stub.ListRuns, pb.ListRunsRequest, "runs")

    def _watch(self, run_id: str, after_sequence: int, timeout: float | None) -> StreamCall:
        request = pb.WatchRunRequest(run_id=run_id, after_sequence=after_sequence)
        return self._stub.WatchRun(request, timeout=timeout, metadata=self._caller.metadata)
