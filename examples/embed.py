"""Embed the worker library in a program of one's own: no server, no gRPC, no certificates.

    PYTHONPATH=src python3 examples/embed.py

Starts a job, follows its output, stops another one, and tells how both ended.
"""

import asyncio
import sys
import tempfile

from jobruntime.worker import (
    Exited,
    JobError,
    JobSpec,
    LocalWorker,
    LogBatch,
    LogEnd,
    Lost,
    Settings,
    Signaled,
)


def describe(outcome: Exited | Signaled | Lost | None) -> str:
    """Say in words how a job ended."""
    match outcome:
        case Exited(code):
            return f"exited with {code}"
        case Signaled(signo):
            return f"ended by signal {signo}"
        case Lost(reason):
            return f"lost: {reason}"
        case None:
            return "still running"


async def follow(worker: LocalWorker, job_id: str) -> None:
    """Print what the job writes, as it writes it."""
    async for event in worker.logs(job_id):
        match event:
            case LogBatch(entries):
                for entry in entries:
                    # A Chunk has data; a Gap tells of output that could not be kept.
                    sys.stdout.buffer.write(getattr(entry, "data", b"[...]\n"))
                    sys.stdout.buffer.flush()
            case LogEnd(complete=complete, status=status):
                print(f"-- {describe(status.outcome)}, log complete: {complete}")


async def run(state_dir: str) -> None:
    """Show every verb once."""
    # One state directory is one instance. What runs in it outlives this program; a later worker
    # on the same directory finds it again.
    async with LocalWorker(Settings(state_dir=state_dir)) as worker:
        counter = JobSpec(argv=("sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.1; done; exit 4"))
        await follow(worker, await worker.start(counter, owner="me"))

        sleeper = await worker.start(JobSpec(argv=("sleep", "600"), name="nap"), owner="me")
        print(f"-- {sleeper} is {(await worker.status('nap')).state}")
        status = await worker.stop("nap", by="me")
        print(f"-- {describe(status.outcome)}")

        try:
            await worker.start(JobSpec(argv=("no-such-program",)), owner="me")
        except JobError as error:
            print(f"-- {error.reason}: {error}")

        # Only because the directory goes away: end what still runs, and the spawner.
        await worker.stop_all(by="me")
        await worker.retire()


def main() -> None:
    """Run it all in a directory that is removed afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(directory))


if __name__ == "__main__":
    main()
