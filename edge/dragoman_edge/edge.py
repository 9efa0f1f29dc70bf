"""What the handlers of one edge share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from dragoman_edge.calls import Core
    from dragoman_edge.metrics import EdgeMetrics
    from dragoman_edge.settings import EdgeSettings


@dataclass(frozen=True, slots=True)
class Edge:
    """The parts of one edge.

    Attributes:
        core: The core, behind whatever channel leads to it.
        settings: The knobs.
        metrics: What is counted.
        registry: What `/metrics` shows.
    """

    core: Core
    settings: EdgeSettings
    metrics: EdgeMetrics
    registry: CollectorRegistry
