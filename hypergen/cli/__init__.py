"""The commands of ``hypergen``, one file each; :mod:`hypergen.cli.main` puts them together.

Heavy imports lie inside the commands, so that ``hypergen --help`` answers at once.
"""
