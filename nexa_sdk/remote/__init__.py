"""A notebook's cell on a cluster: what it is made of, what runs it there, and what comes back.

Where the job has its Python, nothing is installed: the files whose names begin with ``nexa_cell``
travel with the cell, and so does cloudpickle. In the run's folder, ``cell/`` (mode 0700) holds

``cell.py``, ``cell.json``
    The code, and what it is given and asked for.
``in/<name>.pickle``
    Its inputs.
``nexa_cell*.py``, ``cloudpickle/``
    What runs it.
``<job>.shown``
    JSON lines of what it showed besides text: values, pictures, and how it ended. Each says at which
    byte of the trial's log it came: text and pictures are put in order by that.
``outputs/<job>.<name>.pickle``
    Its outputs. To read a pickle is to execute what it says: they are trusted as the cluster is.
"""
