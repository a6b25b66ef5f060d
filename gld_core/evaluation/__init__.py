"""How good results are: metrics, tables and the benchmark."""
