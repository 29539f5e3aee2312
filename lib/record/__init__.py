"""What the book keeps: claims and the ledger, where numbers came from, options, tables and figures.

* ``claims``: the checks that a chapter runs, each with a negative control; ``claims_file``: the file that lists them;
  ``ledger``: the status of every claim, computed; ``few_seeds``: what few seeds do to an interval
* ``provenance``: recorded results and the runs that made them; ``experiment``: the life of a run; ``training_state``:
  its checkpoints; ``processor``: what a run's processor computes with
* ``options``: command lines from dataclasses; ``accepted``: bounds, words, files and devices that they accept;
  ``endings``: how a command ends
* ``report``: values over seeds as text and tables; ``evidence``: the same as a check is told of them; ``figures``: one
  plotting style; ``interactive``: figures with sliders
* ``verdicts``, ``traced_numbers``, ``run_pages``: checks, numbers and runs as a reader sees them; ``story``: the front
  page's sentences; ``survivors``: the mutation test
* ``yaml_files``: YAML that people write
"""
