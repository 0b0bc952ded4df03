bind "tcp://127.0.0.1:8000" # the address of `listen`: Puma finds its socket by it
threads 16, 16 # as many at least as at most: docs/commands.md tells why
