"""Is a fact stored once? Facts overwritten through one question, and what other questions then answer.

* ``editing``: a fact overwritten or erased through one question alone; ``transfer``: how far that carries over
* ``subjects``: the models whose facts are edited; their questions in ``one_layer_questions`` and ``sentence_questions``
* ``states``: do states look like one entry or two? ``copies``: why they cannot tell, and an edit can
* ``edit_run``: the command, one condition and one seed; ``edit_results``: recorded edits read back; ``edit_figures``
"""
