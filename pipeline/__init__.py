"""The steps that the Snakefile calls: resolve parameters, execute a chapter, compute the ledger, render pages."""
