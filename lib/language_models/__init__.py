"""Language models (Sec. 6): checkpoints without remote code, facts, probes, fine-tuning, decoding, Table 7.

Models:

* ``architectures``: the five of Table 7 in transformers' own classes, ``llada`` the one that these do not have;
  ``checkpoints``: a model from a hub id or a folder, by ``checkpoint_files``, ``gguf_files`` and
  ``checkpoint_checks``; ``model_size``: is there room for it?
* ``random_checkpoints``: random weights in published layouts
* ``pretrained``: SmolLM2-135M from an installed package; ``adaptation`` makes it a masked model, by way of
  ``attention_opening`` and with text of its own (``written_text``); ``compressed_weights`` and ``compression_run`` make
  what changed small enough to be kept

Facts:

* ``facts``: facts and the prompts that ask for them; ``published_facts``: the paper's datasets; ``synthetic_facts``: a
  generated world; ``fact_sources`` chooses; ``families`` and ``unseen_relations``: what the real model is told and
  asked

Training and answers:

* ``objectives``: what a batch asks for; ``training_loop``, ``pretraining``, ``finetuning`` (App. D.2)
* ``decoding``: how each model answers; ``answer_scores``, ``name_ranks``, ``filled_names``: how near the right name
  was; ``wrong_answers``: what wrong ones are made of; ``general_text``: ordinary sentences, token by token

Probes:

* ``signatures``: the three of Secs. 5 and 6; ``fact_signatures``: fact by fact; ``queries``, ``attention_scores`` and
  ``gradient_products``: what they are made of; ``attention_patching`` and ``patching_effects``: what attention carries
* ``head_states``, ``score_premises``, ``premise_findings``, ``first_layer_scores``: Thm 4.3 and Assumption 4.2, head by
  head
* ``competition``: what competes with the right answer, in one layer, in the miniature and in the real model

Runs, each a command, and their recorded results read back:

* ``reversal_run``, ``signature_run``, ``traced_run``: one model; ``table_7``: the sweep at full size
* ``miniature``: Table 7 with small models; ``miniature_cell``, ``miniature_sentences``, ``miniature_measures``: what is
  varied, told and measured; ``miniature_results``, ``miniature_questions``, ``miniature_signatures``: read back
* ``pretrained_run``: the same on the real model; ``pretrained_results`` and ``pretrained_tables``: read back

Figures and tables: ``figures`` and ``tables`` of these chapters, ``figures_curse``: sentences that runs read and wrote,
``figures_premises``, ``figures_pretrained``.
"""
