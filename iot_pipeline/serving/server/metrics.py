"""Figures of the service for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from iot_pipeline.serving.classifier import Origin, Verdict

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FLOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Metrics of one server, in a registry of its own."""

    def __init__(self, origin: Origin, dataset: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        told = Info("iot_serve_model", "Student that is served.", registry=registry)
        told.info({"dataset": dataset, "stage": origin.stage, "track": origin.track, "model": origin.model})
        self.requests = Counter("iot_serve_requests", "Requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "iot_serve_request_seconds", "Time of requests.", ["route"], buckets=SECONDS, registry=registry
        )
        self.refused = Counter("iot_serve_refused", "Requests refused, or failed.", ["status"], registry=registry)
        self.running = Gauge("iot_serve_requests_running", "Requests that are being answered.", registry=registry)
        self.held = Gauge("iot_serve_body_bytes", "Bytes of bodies that are held.", registry=registry)
        self.queue = Gauge("iot_serve_waiting_flows", "Flows that wait or are worked on.", ["lane"], registry=registry)
        self.batches = Histogram(
            "iot_serve_batch_flows", "Flows of a batch.", ["lane"], buckets=FLOWS, registry=registry
        )
        self.working = Counter("iot_serve_model_seconds", "Time of the model thread.", ["lane"], registry=registry)
        self.flows = Counter("iot_serve_flows", "Classified flows.", ["class"], registry=registry)
        self.known = Counter("iot_serve_known_flows", "Flows whose verdict the cache knew.", registry=registry)
        self.doubts = Counter("iot_serve_doubts", "Classified flows by kind of doubt.", ["kind"], registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Note a request; status 0 if its client left before an answer."""
        self.requests.labels(route, str(status or 499)).inc()
        self.seconds.labels(route).observe(seconds)

    def batch(self, lane: str, flows: int, seconds: float) -> None:
        """Note a batch of the model thread."""
        self.batches.labels(lane).observe(flows)
        self.working.labels(lane).inc(seconds)

    def waiting(self, lane: str, flows: int) -> None:
        """Note the flows that wait in a lane."""
        self.queue.labels(lane).set(flows)

    def looked_up(self, flows: int) -> None:
        """Note flows whose verdict the cache knew."""
        self.known.inc(flows)

    def verdict(self, verdict: Verdict) -> None:
        """Note a classified flow."""
        self.flows.labels(verdict.name).inc()
        if verdict.unknown:
            self.doubts.labels("unknown").inc()
        if verdict.unsure:
            self.doubts.labels("unsure").inc()
        if verdict.out_of_range:
            self.doubts.labels("out_of_range").inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)
