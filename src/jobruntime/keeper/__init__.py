"""The spawner and the keepers: the small processes that stand beside the jobs. Stdlib only.

They run as `python -I -S <this directory> ...`: nothing but the standard library and this
project's model, linux and keeper packages is ever loaded (a test holds that).
"""
