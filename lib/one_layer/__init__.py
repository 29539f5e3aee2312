"""The one-layer laboratory of Sec. 5: task, model, training, and what is measured in a trained model.

What is trained, and on what:

* ``task`` (Sec. 5, App. D.1): a letter, its capital, and placeholders; ``model``: the small transformer, masked or
  causal
* ``objectives``: what a step asks for; ``interventions``: the questions changed, each change with its control
* ``training``: how a batch becomes a step and a step a run; ``ensemble``: many models as one; ``unique`` and
  ``tables``: the loss computed once for equal questions, or by tables over the vocabulary
* ``experiment``: the command that trains and records; ``snapshots``: weights kept along training
* ``effective_model``: storage W, one query, keys, and nothing else

What is measured in a model:

* ``metrics``: accuracy and the paper's three signatures; ``evaluation``: ways to ask for the reverse answer
* ``attribution`` and ``patching``: which part of the model decides the answer; ``loss_change``: what a step does to it
* ``token_account``: logits written out as sums over what a mask attends to; ``prediction``: reverse accuracy from
  questions that are no reverse queries; ``frozen_attention``: the limit if attention stayed as it is
* ``premises``: query and keys, held against the premise of Thm 4.3; ``kept_models``: one model along its training

Recorded runs read back, and what the checks of the chapters ask of them:

* ``results``: runs found by what they trained; ``paper_tables``, ``stopping``, ``sweeps``: beside Tables 1 and 2, by
  stopping rule, and with one setting changed
* ``intervention_runs``, ``intervention_results``, ``intervention_checks``, ``intervention_tables``, ``first_measures``,
  ``signature_ranks``: the chapter on what blocks reverse recall
* ``supervision``, ``limit_predictions``, ``recipes``: the chapters of these subjects
* ``ladder_sentences``, ``ladder_run``, ``ladder_results``, ``ladder_figures``: from this task to the miniature

Figures: ``figures`` of runs, ``figures_task``, ``figures_maps`` and ``figures_play`` of one model, and, of a chapter
each, ``figures_interventions``, ``figures_limit``, ``figures_premises``, ``figures_recipes``, ``figures_supervision``.
"""
