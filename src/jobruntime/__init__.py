"""Run Linux processes as jobs: a worker library, a server (`jobd`) and a CLI (`jobc`)."""

__version__ = "0.1.0"
