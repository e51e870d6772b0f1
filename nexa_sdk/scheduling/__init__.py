"""Schedulers: Slurm and the embedded one, behind one interface."""
