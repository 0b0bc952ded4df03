"""Completion for bash, zsh and fish: static files, made of the commands when the package is built.

`python -m clusterd.cli.completion SHELL`. click could complete by itself, by starting the program at each TAB; that
takes longer than people wait for. The names of instances and profiles are read by the shell, from the files.
"""
