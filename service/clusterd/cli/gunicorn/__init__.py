"""From gunicorn's configuration to a file of ours. Nothing of the configuration is run: see reading.py."""
