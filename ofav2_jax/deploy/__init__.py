"""Networks taken out of a supernet: extraction, files, export to other runtimes."""
