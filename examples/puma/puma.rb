bind "tcp://127.0.0.1:8000" # the address of `listen`: Puma finds its socket by it
threads 4, 16
