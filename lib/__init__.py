"""The mathematics and the experiments behind the book, one idea a module, in the paper's order.

Theory
    encodings, arguments       what an encoding does; what the theory's functions accept
    routing, symbolic          Sec. 4.1-4.2: covariance of a plane, derivations that sympy decides
    dirichlet, bounds, certificates, tightness    App. B and its sharpening
    gradients, factors, effective    App. C.1-C.2: gradients of stored, retrieved and effective weights
    dynamics                   Sec. 4.3 and App. C.3: finite steps and flows
    counterexamples, transfer, autoregressive    what each assumption is for; other encodings; the causal side

One layer (Sec. 5)
    letters                    the task
    transformer                the model, plain
    objectives, interventions  masked diffusion, fixed rate, autoregressive; questions changed on purpose
    merging, kernels, vocabulary, descent, one_head, ensemble    many models trained as one, and fast
    grafts, decomposition      one query's attention put into another; a logit taken apart
    measurement, training, varied, resume, snapshots    what is measured, the loop, going on after an interruption
    recorded_runs, tables, sensitivity    runs read back, beside the paper's tables, with a setting changed
    exhaustive, protocols, readings, prediction    a loss without chance; other ways to ask and to stop; a rule
    layers, first_order, causes      layer by layer; predicted and realised change; what blocks reverse recall
    shelf, intervened, drawn    runs compared at one step; what those of `causes` say; their pictures
    premises                   the premise of Thm 4.3 in a model's own query and keys

Language models (Sec. 6)
    probes, gradients_by_hooks, factors, attention_routes    the three signatures, one interface for all models
    worlds, relations, prompts       facts, and how they are asked
    architectures, checkpoints, tiny_checkpoints, signatures    models without remote code, and the probes on them
    processes, finetuning, adapters, decoding, reversal_run, sweep    forward-only fine-tuning, samplers, Table 7
    miniature_world, pretraining, miniature, miniature_table    the same with small models, pretrained here

The record
    claims, statements         the ledger and how it is shown
    provenance, figures        where a number came from; one plotting style
"""
