"""The paper's statements as functions, and the tools of their proofs; nothing here is trained.

In the order of the paper:

* ``text_prompts`` (Secs 1, 2): what masking and causal training ask about a text
* ``decomposition`` (Sec. 3, App. A.1): one layer, storage W = U W_V W_E times routing by attention
* ``storage`` (Sec. 4.1, App. A.2): Prop. 4.1, and gradient descent on W
* ``routing`` (Sec. 4.2, Apps. A.3, A.4): RoPE's rotation, Assumption 4.2, Thm 4.3, ALiBi in Prop. 4.5
* ``dynamics`` (Sec. 4.3, App. A.5): Thm 4.6 and the step it describes; steps of proofs in ``dynamics_proofs``
* ``bounds`` (App. B): the trace bound, Cantelli's, unequal distances; laws of their weights in ``dirichlet``, proofs
  for every real distance in ``certificates``, steps of proofs in ``bound_proofs``
* ``gradients`` (App. C.1) and ``parameter_gradients`` (App. C.2, Prop. C.1): the full gradient in effective coordinates
  and in the original matrices; steps of proofs in ``gradient_proofs``; unembeddings that are not isotropic in
  ``random_unembedding``
* ``flows`` (App. C.3): gradient flow with learned attention, Props C.2 and C.3; steps of proofs in ``flow_proofs``

Beyond the paper: ``separators`` (where training ends for any prompts), ``late_training`` (for forward-only training,
in closed form; steps of proofs in ``late_training_proofs``), ``tightness`` of Thm 4.3, ``premises`` (how far given keys
are from Assumption 4.2), ``assumptions`` (each hypothesis broken alone), ``other_encodings`` and ``autoregressive``
models.

Tools: ``symbolic`` decides identities and signs, ``solver`` inequalities for all real numbers (those of the book stand
in ``decided``), ``validation`` refuses bad arguments.

Figures: ``figures`` of setup, storage and routing; of one subject each ``figures_assumptions``, ``figures_bounds``,
``figures_dynamics``, ``figures_gradients``, ``figures_late_training``, ``figures_other_models`` and
``figures_text_prompts``; to play with, ``figures_midpoint`` and ``figures_routing``; ``figures_mechanism``: the front
page's.
"""
