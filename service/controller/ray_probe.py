"""`python -m peelbound.service.controller.ray_probe`: connect to the cluster of the settings and say what it has.

A process of its own, because a connection that fails may hang, print, or end the process. It writes one JSON object.
"""

import json
import sys

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled; what `ray health-check` uses

from peelbound.service.controller.cluster import start_ray
from peelbound.service.settings import Settings


def main() -> int:
    """Connect and tell; the failure's own words otherwise."""
    try:
        settings = Settings()
        if settings.ray_address not in (None, "auto"):
            GcsClient(address=settings.ray_address)  # names a wrong token at once, as `ray health-check` does
        start_ray(settings)
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    except Exception as error:  # `ray.init` raises all sorts
        sys.stdout.write(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 1
    sys.stdout.write(
        json.dumps({"nodes": len(nodes), "cpus": resources.get("CPU", 0.0), "gpus": resources.get("GPU", 0.0)})
    )
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
