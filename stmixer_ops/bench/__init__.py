"""The harness of ``stmixer bench``: the engine against its peers, on the same network, checked."""
