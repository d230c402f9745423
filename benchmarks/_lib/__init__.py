"""What the benchmarks share: the command line, every method on a scenario, results in one schema, tables of them."""
