"""Looking at an application for `clusterd init`: at its files only. Nothing of it is imported, nothing is run.

So it may be done as root on code that is not to be trusted: what the application really is, `clusterd try` finds out.
"""
