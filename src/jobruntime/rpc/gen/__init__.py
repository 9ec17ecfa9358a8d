"""Code generated from proto/service.proto; `make proto` writes it anew."""

# service_pb2_grpc imports grpc, which must not happen before TLS 1.2 is forbidden there.
from jobruntime.rpc import tls as tls
