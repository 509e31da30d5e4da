"""The route `/metrics`, for Prometheus, which sends an admin key or the setting `metrics_token`."""

from typing import Annotated

from starlette.responses import Response

from bay.meters import CONTENT_TYPE
from bay.server.maintenance.metrics import Metrics
from bay.server.web.dependencies import Admin, noun_router, service

router = noun_router("metrics")

MetricsDep = Annotated[Metrics, service(Metrics)]


@router.get("/metrics", response_class=Response)
async def read_metrics(_caller: Admin, metrics: MetricsDep) -> Response:
    """Counters, histograms and gauges of this Bay, in the text format of Prometheus: docs/metrics.md."""
    return Response(await metrics.text(), media_type=CONTENT_TYPE)
