"""`jobd`: the gRPC server over the worker library, and the operator's commands."""
