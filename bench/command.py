"""A call of jobc's as a whole process."""

from __future__ import annotations

import subprocess
import sys
import time

from jobruntime.rpc.gen import service_pb2 as pb

from .figure import Figure, median
from .instance import Instance
from .options import Options


def bench_status(instance: Instance, options: Options) -> list[Figure]:
    """Measure `jobc status` from its start to its end."""
    with instance.stub() as stub:
        job_id = stub.Start(pb.StartRequest(argv=["true"])).job_id
    instance.wait_released([job_id])
    commands = {
        "bare interpreter": [sys.executable, "-I", "-S", "-c", "pass"],
        "interpreter + import grpc": [sys.executable, "-I", "-c", "import grpc"],
        "jobc status": instance.jobc("status", job_id),
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(options.scaled(30) + 1):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first one warms up
                samples[name].append((time.perf_counter() - begin) * 1000)
    ours = median(samples.pop("jobc status"))
    return [
        Figure("jobc status, whole", ours, name, median(base), "ms")
        for name, base in samples.items()
    ]
