"""What the book keeps: claims and the ledger, where numbers came from, options, tables and figures."""
